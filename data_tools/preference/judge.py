"""What a judge says: a grade from 1 to 5 with the caption or the frames as evidence, or a verdict on an adversarial reply.

What cannot be read stays without a score; it is asked again a bounded number of times and then listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_tools.preference.chat import ChatClient
from data_tools.preference.frames import Shown
from data_tools.preference.messages import ChatRequest, Message, Sampling
from data_tools.preference.parsing import parse_score, parse_verdict
from data_tools.preference.prompts import Prompt, prompt
from data_tools.preference.questions import REJECTABLE, Candidate, Question
from data_tools.preference.steps import ask_each, framed
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError

LONGEST_REPLY = 256
"""Words of a reply that a judge reads (LLaVA-Hound); the rest is cut, and counted."""
Scored = dict[tuple[str, str, int], dict[str, Any]]
"""(question, role, number) -> fields of the candidate that are new."""


@dataclass(frozen=True)
class Judged:
    """One reply with its question."""

    question: Question
    candidate: Candidate

    @property
    def place(self) -> tuple[str, str, int]:
        return self.question.question_id, self.candidate.role, self.candidate.number

    @property
    def key(self) -> str:
        return "/".join(map(str, self.place))


def with_scores(questions: Iterable[Question], scored: Scored) -> list[Question]:
    """Questions whose candidates have their new fields."""
    def updated(q: Question, c: Candidate) -> Candidate:
        new = scored.get((q.question_id, c.role, c.number))
        return replace(c, **new | {"judged": {**c.judged, **new["judged"]}}) if new else c

    return [replace(q, candidates=tuple(updated(q, c) for c in q.candidates)) for q in questions]


Look = Callable[[str], Shown]
"""Medium -> the frames that a judge sees of it."""


def without(questions: Iterable[Question], what: str) -> list[Question]:
    """Questions without the scores, verdicts or rewards that they have (``what``): a table holds one judge's opinions, or comparing it with
    another judge's would compare a part with itself."""
    gone = dict.fromkeys(("reward", "tokens") if what == "reward" else (what,))
    return [replace(q, candidates=tuple(replace(c, **gone, judged={k: v for k, v in c.judged.items() if k != what}) for c in q.candidates))
            for q in questions]


def grade(questions: Iterable[Question], judge: ChatClient, ledger: SkipLedger, *, tries: int, max_tokens: int, look: Look | None = None) -> Scored:
    """Grades of all replies of role ``sample``, with the reference and the caption as evidence, or the frames that ``look`` gives."""
    asked = prompt("frames_score" if look else "hound_score")
    items = []
    for question in questions:
        for candidate in question.of("sample"):
            item = Judged(question, candidate)
            with ledger.catching("grade", item.key):
                if not question.reference or not (look or question.caption):
                    raise SampleError(f"a grade needs a reference answer{'' if look else ' and a caption'}", reason="no_caption")
                items.append(item)

    def messages(item: Judged) -> tuple[Message, ...]:
        words = item.candidate.text.split()
        if len(words) > LONGEST_REPLY:
            ledger.note(f"replies cut to {LONGEST_REPLY} words for the judge")
        text = " ".join(words[:LONGEST_REPLY]) if len(words) > LONGEST_REPLY else item.candidate.text
        evidence = {} if look else {"caption": item.question.caption}
        shown = look(item.question.medium) if look else None
        return framed(shown, asked, question=item.question.prompt, reference=item.question.reference, reply=text, **evidence)

    return _judge(items, judge, asked, messages, lambda text: {"score": parse_score(text)}, "score", ledger, tries, max_tokens)


def compare(questions: Iterable[Question], judge: ChatClient, ledger: SkipLedger, *, tries: int, max_tokens: int,
            look: Look | None = None) -> Scored:
    """Verdicts on adversarial replies and controls beside the preferred reply; with the caption, when the question has one, and with the frames
    that ``look`` gives."""
    asked, items = prompt("pasta_filter"), []
    for question in questions:
        with ledger.catching("verdict", question.question_id):
            if not question.of("preferred"):
                raise SampleError("no preferred reply to compare with", reason="no_preferred")
            items += [Judged(question, c) for c in question.of(*REJECTABLE)]

    def messages(item: Judged) -> tuple[Message, ...]:
        question = item.question
        shown = look(question.medium) if look else None
        return framed(shown, asked, question=question.prompt, mode=question.mode, caption=question.caption, adversarial=item.candidate.text,
                      preferred=question.of("preferred")[0].text)

    return _judge(items, judge, asked, messages, lambda text: {"verdict": asdict(parse_verdict(text))}, "verdict", ledger, tries, max_tokens)


def _judge(items: list[Judged], judge: ChatClient, asked: Prompt, messages: Callable[[Judged], tuple[Message, ...]],
           parse: Callable[[str], dict[str, Any]], what: str, ledger: SkipLedger, tries: int, max_tokens: int) -> Scored:
    """Ask about each item at temperature 0; what could not be read is asked again with another seed, up to ``tries`` times in all."""
    scored: Scored = {}
    for attempt in range(tries):
        waiting = [(item.key, item) for item in items if item.place not in scored]
        unread = SkipLedger()

        def request_of(key: str, item: Judged, attempt: int = attempt) -> ChatRequest:
            return judge.request(messages(item), Sampling(max_tokens=max_tokens, sample=attempt, seed=attempt))

        for _, item, (fields, served) in ask_each(judge, waiting, request_of, lambda r: (parse(r.text), r.served), what, unread):
            scored[item.place] = fields | {"judged": {what: {"judge": judge.endpoint.identity, "served": served, "prompt": asked.provenance,
                                                             "attempt": attempt}}}
        if attempt and (read := len(waiting) - len(unread)):
            ledger.note(f"{what}s read at a further try", read)
    ledger.skips += unread.skips
    return scored
