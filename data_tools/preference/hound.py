"""Candidates to be ranked (LLaVA-Hound, arXiv 2404.01258): a caption per video, questions with answers from the caption, sampled replies.

The caption later stands for the video when a judge grades the replies (``judge``). Frames, temperature and top-p are the published ones:
2 frames per second of 336 pixels, 8 of them spread evenly; 1.0 and 0.95. Six replies per question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_tools.preference.chat import ChatClient
from data_tools.preference.frames import FrameRule, show
from data_tools.preference.messages import ChatRequest, Sampling, seed_of
from data_tools.preference.parsing import parse_dialogues
from data_tools.preference.prompts import prompt
from data_tools.preference.questions import Candidate, Question
from data_tools.preference.steps import Looks, Media, ask_each, framed, made_by
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError

NAME, MODE = "hound", "correctness"


@dataclass(kw_only=True)
class HoundSettings:
    """Frames, questions and candidates."""

    questions: int = setting(3, "questions with answers per caption; a reply with another number is dropped")
    candidates: int = setting(6, "replies per question")
    fps: float = setting(2.0, "frames per second that are considered")
    frames: int = setting(8, "how many of them are shown, spread evenly")
    width: int = setting(336, "pixels; wider frames are made smaller. 0: as stored")
    temperature: float = setting(1.0, "of the replies; captions and questions are greedy")
    top_p: float = setting(0.95, "of the replies")
    max_tokens: int = setting(1024, "longest reply of any role; a cut one is not used")
    seed: int = setting(0, "of all draws")

    def __post_init__(self):
        for name in ("questions", "frames", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.candidates < 2:
            raise ConfigError(f"candidates={self.candidates}: a pair needs at least 2")
        if self.temperature <= 0:
            raise ConfigError(f"temperature={self.temperature} must be positive: greedy candidates are all the same")
        self.sampling(0)  # checks the others
        self.rule  # noqa: B018

    @property
    def rule(self) -> FrameRule:
        return FrameRule(fps=self.fps, count=self.frames, width=self.width)

    def sampling(self, number: int, *parts: str) -> Sampling:
        """Of candidate ``number``; ``parts`` name its question."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, sample=number,
                        seed=seed_of(self.seed, *parts, number))


def make(media: Media, settings: HoundSettings, captioner: ChatClient, writer: ChatClient, answerer: ChatClient, ledger: SkipLedger,
         limit: int = 0) -> list[Question]:
    """Questions with reference, caption and candidates; one with fewer than two candidates is left out."""
    questions = list(_questions(media, settings, captioner, writer, ledger, limit))
    asked, looks, origins = prompt("answer"), Looks(media), {}
    wanted = ((f"{q.question_id}/sample/{n}", (q, n)) for q in questions for n in range(settings.candidates))

    def request_of(key: str, item: tuple[Question, int]) -> ChatRequest:
        question, number = item
        shown = looks(question.medium, settings.rule)
        request = answerer.request(framed(shown, asked, question=question.prompt), settings.sampling(number, question.question_id))
        origins[key] = made_by(answerer, asked, request, shown)
        return request

    found: dict[str, list[Candidate]] = {}
    for key, (question, number), text in ask_each(answerer, wanted, request_of, lambda reply: reply.text, "replies", ledger):
        found.setdefault(question.question_id, []).append(Candidate("sample", number, text, origins.pop(key)))
    made = []
    for question in questions:
        candidates = tuple(found.get(question.question_id, ()))
        if len(candidates) < 2:
            ledger.skip(NAME, question.question_id, "too_few_candidates", f"{len(candidates)} of {settings.candidates} replies are usable")
        else:
            made.append(replace(question, candidates=candidates))
    return made


def _questions(media: Media, settings: HoundSettings, captioner: ChatClient, writer: ChatClient, ledger: SkipLedger,
               limit: int) -> Iterator[Question]:
    sampling = Sampling(max_tokens=settings.max_tokens)
    describe, ask, origins = prompt("hound_caption"), prompt("hound_questions"), {}

    def caption_request(key: str, medium: str) -> ChatRequest:
        sample = media.sample(medium)
        shown = show(sample, settings.rule)
        request = captioner.request(framed(shown, describe), sampling)
        origins[key] = made_by(captioner, describe, request, shown), dict(sample.medium.source)
        return request

    def questions_request(key: str, item: tuple[str, str]) -> ChatRequest:
        return writer.request(framed(None, ask, caption=item[1], count=settings.questions), sampling)

    keys = ((medium, medium) for medium in media.first(limit))
    captions = [(medium, (medium, text))
                for medium, _, text in ask_each(captioner, keys, caption_request, lambda r: r.text, "captions", ledger)]
    for medium, (_, caption), dialogues in ask_each(writer, captions, questions_request, lambda r: parse_dialogues(r.text, settings.questions),
                                                    "questions", ledger):
        captioned, source = origins[medium]
        origin = {"caption": captioned, "question": {"generator": writer.endpoint.identity, "prompt": ask.provenance}, "source": source}
        for n, (question, answer) in enumerate(dialogues):
            yield Question(f"{medium}/{n}", NAME, medium, question, MODE, answer, caption, origin=origin)
