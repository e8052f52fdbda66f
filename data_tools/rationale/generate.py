"""Ask a model why the known answer is right, check what it cites, and ask again a bounded number of times where that does not hold.

Replies go through the journal of the chat layer, so a stopped run goes on where it was. Media of a part that is not for training are refused:
their answers would be learnt through the rationale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_tools.preference.chat import ChatClient, Reply
from data_tools.preference.frames import show_at
from data_tools.preference.messages import ChatRequest, Sampling, seed_of, user
from data_tools.preference.prompts import prompt
from data_tools.preference.steps import Media, ask_each
from data_tools.rationale.context import Context, context_of
from data_tools.rationale.verify import verify
from unipixel.config import setting
from unipixel.data.film_context import start_s
from unipixel.data.ledger import SkipLedger
from unipixel.data.template import letter
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Example, Sample

NAME, PROMPT = "rationale", "film_rationale"
_LABEL = re.compile(r"\s*\**\s*reasoning\s*\**\s*:\s*\**\s*", re.IGNORECASE)


@dataclass(kw_only=True)
class RationaleSettings:
    """What is shown, and how often is asked."""

    frames: int = setting(16, "pooled pictures of a scene that are shown, spread over it; the key frame comes on top")
    max_segments: int = setting(2048, "segments of speech and silence, at most")
    width: int = setting(0, "pixels; wider pictures are made smaller. 0: as stored")
    tries: int = setting(2, "replies to one question, at most, until one can be read and cites only what is there")
    temperature: float = setting(0.7, "of the replies; 0 gives the same reply at every try")
    max_tokens: int = setting(512, "longest reply")
    seed: int = setting(42, "of the replies")
    train_splits: list[str] = setting(["train"], "splits of packed data that are for training; folders of another split are refused")

    def __post_init__(self):
        for name in ("frames", "max_segments", "tries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.width < 0:
            raise ConfigError(f"width={self.width} must not be negative")


@dataclass(frozen=True)
class Item:
    """A question to be explained."""

    medium: str
    example: Example


@dataclass(frozen=True)
class Asked:
    """What a request consisted of, without the pictures."""

    context: Context
    summary: str
    instruction: str


def make(media: Media, settings: RationaleSettings, writer: ChatClient, ledger: SkipLedger, limit: int = 0) -> list[dict[str, Any]]:
    """One record per question that got a readable reply, with the verdict on the last of its replies; the other questions are listed.

    Raises:
        ConfigError: a folder is not of a training split.
    """
    media.require_splits(settings.train_splits)
    records: dict[str, dict[str, Any]] = {}
    items, unread = dict(_items(media, ledger, limit)), SkipLedger()
    for attempt in range(settings.tries):
        waiting = [(key, item) for key, item in items.items() if not records.get(key, {}).get("verdict", {}).get("ok")]
        asked: dict[str, Asked] = {}
        unread = SkipLedger()

        def request_of(key: str, item: Item, attempt: int = attempt, asked: dict[str, Asked] = asked) -> ChatRequest:
            asked[key], request = _ask(media.sample(item.medium), item.example, settings, writer, attempt)
            return request

        for key, item, (text, reply) in ask_each(writer, waiting, request_of, lambda r: (parse_rationale(r.text), r), NAME, unread):
            records[key] = _record(media.sample(item.medium), item, asked.pop(key), text, reply, attempt, writer)
    ledger.skips += [skip for skip in unread.skips if skip.key not in records]
    for record in records.values():
        for reason in {r["reason"] for r in record["verdict"]["reasons"]}:
            ledger.note(f"rationales that fail: {reason}")
    return [records[key] for key in items if key in records]


def parse_rationale(text: str) -> str:
    """The paragraph behind ``Reasoning:``, its lines joined (``no_reasoning`` where the reply does not begin so)."""
    label = _LABEL.match(text)
    rationale = " ".join(text[label.end():].split()) if label else ""
    if not rationale:
        raise SampleError(f"the reply does not begin with 'Reasoning:' and a text: {text[:80]!r}", reason="no_reasoning")
    return rationale


def told(example: Example) -> str:
    """What the model was told in words."""
    return " / ".join((example.question, *example.options, example.answer))


def _items(media: Media, ledger: SkipLedger, limit: int) -> Iterator[tuple[str, Item]]:
    for key in media.first(limit):
        with ledger.catching(NAME, key):
            for example in media.sample(key).examples:
                if example.task == "evidence" and example.answer.strip():
                    yield f"{key}/{example.example_id}", Item(key, example)
                else:
                    ledger.note("examples that are no question with an answer: passed over")


def _ask(sample: Sample, example: Example, settings: RationaleSettings, writer: ChatClient,
         attempt: int) -> tuple[Asked, ChatRequest]:
    context, positions = context_of(sample.medium, frames=settings.frames, max_segments=settings.max_segments)
    pictures = show_at(sample, [round(sample.medium.frame_times[t], 3) for t in positions], settings.width).pictures
    cards = [picture.text for picture in context.pictures]
    instruction = prompt(PROMPT).render(question=example.question.strip(), options=[(letter(i), o) for i, o in enumerate(example.options)],
                                        answer=example.answer.strip(), paused=next((p.number for p in context.pictures if p.key), None))
    parts = [part for pair in zip(pictures, cards, strict=True) for part in pair]
    sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens, sample=attempt,
                        seed=seed_of(settings.seed, sample.key, example.example_id, attempt))
    return Asked(context, "\n".join(cards), instruction), writer.request(user(*parts, instruction), sampling)


def _record(sample: Sample, item: Item, asked: Asked, text: str, reply: Reply, attempt: int, writer: ChatClient) -> dict[str, Any]:
    """The fields of POVQA's generator, and of ours: ids, context, verdict, provenance."""
    example, source, offset = item.example, sample.medium.source, start_s(sample.medium)
    start, end = example.segments[0] if example.segments else (0.0, sample.medium.duration_s)
    number = example.example_id.removeprefix("q")
    return {
        "qid": int(number) if number.isdecimal() else example.example_id, "vid_name": source.get("vid_name") or source.get("film"),
        "timestamp": example.source.get("timestamp") or example.source.get("ts"), "query_start_sec": round(offset + start, 3),
        "query_end_sec": round(offset + end, 3), "question": example.question, "answer_options": list(example.options),
        "correct_answer_idx": example.options.index(example.answer) if example.options else None, "correct_answer_text": example.answer,
        "context_summary": asked.summary, "final_instruction_prompt": asked.instruction,
        "relevant_chunk_filenames": [p.file for p in asked.context.pictures], "model_used": writer.endpoint.identity, "generated_cot": text,
        "medium": item.medium, "example_id": example.example_id, "context": asked.context.plain(),
        "verdict": verify(text, asked.context, told=told(example)).plain(), "attempt": attempt, "served": reply.served,
        "prompt": prompt(PROMPT).provenance, "request": reply.key,
    }
