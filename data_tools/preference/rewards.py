"""Implicit rewards: log p of a reply under a trained policy minus that under its reference (LLaVA-Hound's ranking; DPO, arXiv 2305.18290).

Both models run in this process. Their log-probabilities are kept in a journal, so a stopped run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

from data_tools.preference.frames import show_at
from data_tools.preference.journal import Journal
from data_tools.preference.judge import Judged, Scored
from data_tools.preference.local import LocalModel
from data_tools.preference.messages import ChatRequest, Message, content_hash
from data_tools.preference.prompts import Prompt, prompt
from data_tools.preference.questions import Question
from data_tools.preference.steps import Media, framed
from unipixel.data.ledger import SkipLedger
from unipixel.errors import SampleError


def implicit_rewards(questions: Iterable[Question], media: Media | None, policy: LocalModel, reference: LocalModel, journal: Journal,
                     ledger: SkipLedger) -> Scored:
    """log p of each reply under the policy minus that under the reference, with the frames that the reply was made from.

    Both log-probabilities are in the journal under the hash of model, messages and reply, so a stopped run goes on.
    """
    asked, scored = prompt("answer"), {}
    for question in questions:
        for candidate in question.candidates:
            item = Judged(question, candidate)
            with ledger.catching("reward", item.key):
                messages = _as_asked(item, media, asked)
                (first, tokens), (second, others) = (_log_prob(m, messages, candidate.text, journal) for m in (policy, reference))
                if tokens != others:
                    raise SampleError(f"the policy cuts the reply into {tokens} tokens, the reference into {others}", reason="tokenizers_differ")
                origin = {"policy": policy.endpoint.identity, "reference": reference.endpoint.identity, "log_probs": [first, second],
                          "prompt": asked.provenance}
                scored[item.place] = {"reward": first - second, "tokens": tokens, "judged": {"reward": origin}}
    return scored


def _as_asked(item: Judged, media: Media | None, asked: Prompt) -> tuple[Message, ...]:
    """The plain question with the frames of the reply, which a misleading instruction is not part of."""
    frames = item.candidate.origin.get("frames")
    if frames is None:
        return framed(None, asked, frames="", question=item.question.prompt)
    if media is None:
        raise SampleError(f"the reply was made from frames of {item.question.medium!r}: name its folder with --shards", reason="no_medium")
    shown = show_at(media.sample(item.question.medium), frames["times"], frames["rule"]["width"])
    return framed(shown, asked, question=item.question.prompt)


def _log_prob(model: LocalModel, messages: tuple[Message, ...], reply: str, journal: Journal) -> tuple[float, int]:
    content = {name: value for name, value in ChatRequest(model.endpoint.identity, messages).content.items() if name != "sampling"}
    content["log_prob_of"] = reply
    key = content_hash(content)
    record = journal.get(key)
    if record is None:
        total, tokens = model.log_prob(messages, reply)
        record = {"log_prob": total, "tokens": tokens}
        journal.append(key, record, content)
    return record["log_prob"], record["tokens"]
