"""General models through the chat client: any OpenAI-compatible server (vLLM, OpenAI, Gemini's endpoint), transformers in this process,
or recorded replies.

A video is its frames as pictures, each behind a line with its time, then the pictures of the options if there are any, then the prompt of
the task. Replies are kept in a journal, so that nothing is paid for twice; a reply that did not come is a status, never an empty answer.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

from benchmarks.adapters.base import Adapter
from benchmarks.adapters.evidence_reply import TURNS, join_turns, reply_of
from benchmarks.adapters.presets import PRESETS, Preset
from benchmarks.protocol import Protocol, content_hash
from benchmarks.task import Task
from data_tools.preference.chat import ChatClient
from data_tools.preference.endpoints import read_endpoints
from data_tools.preference.frames import Shown, show
from data_tools.preference.journal import Journal
from data_tools.preference.messages import Message, Part, Picture, Sampling
from unipixel.data.template import letter
from unipixel.errors import ConfigError, SampleError
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample

ROLE = "answerer"
TRIES = 2
"""Times that an evidence reply with a part missing is asked for."""
Mode = Literal["single-turn", "multi-turn"]


class ChatAdapter(Adapter):
    """
    Args:
        client: where the model is; its journal keeps the replies.
        mode: evidence in one reply, or in three turns (answer, segments, expressions) that see the earlier ones.
    """

    name = "chat"

    def __init__(self, preset_name: str, preset: Preset, client: ChatClient, mode: Mode = "single-turn"):
        self.preset, self.client, self.mode = preset, client, mode
        self.identity = {"adapter": self.name, "model": client.endpoint.identity, "preset": preset_name, "mode": mode, **preset.card(),
                         "turns": content_hash(TURNS) if mode == "multi-turn" else None}

    def check(self, task: Task) -> None:
        if task.answers == "masks" or task.flow == "locate" or task.source.startswith("videorefer"):
            raise ConfigError(f"{task.name} needs masks, from or for the model, which a chat model does not have")

    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        shown = show(sample, self.preset.frames)
        with ThreadPoolExecutor(self.client.endpoint.concurrency) as pool:
            yield from pool.map(lambda example: self._answer(task, sample, example, shown, protocol), sample.examples)

    def _answer(self, task: Task, sample: Sample, example: Example, shown: Shown, protocol: Protocol) -> Prediction:
        medium_id, best = sample.medium.medium_id, None
        for attempt in range(TRIES if task.answers == "evidence" else 1):
            try:
                reply = self._converse(task, sample, example, shown, protocol, attempt)
            except SampleError as error:
                return best or Prediction(example.example_id, medium_id, error.reason, error=str(error))
            found = Prediction(example.example_id, medium_id, "no_mask" if task.answers == "evidence" else "ok", reply=reply)
            read = task.read(example, found)
            if best is None or _parts(read) > _parts(best):
                best = read
            if task.answers != "evidence" or reply_of(found).complete:
                break
        return best

    def _converse(self, task: Task, sample: Sample, example: Example, shown: Shown, protocol: Protocol, attempt: int) -> str:
        sampling = Sampling(temperature=self.preset.temperature or 0.0, top_p=self.preset.top_p, max_tokens=self.preset.max_tokens, seed=attempt,
                            sample=attempt, extra=self.preset.extra)
        if task.answers != "evidence" or self.mode == "single-turn":
            prompt = task.prompt(sample, example, protocol)
            return self.client.ask(self.client.request(messages_of(shown, example, prompt), sampling)).text
        parts = {"question": example.question, "options": "\n".join(f"({letter(i)}) {option}" for i, option in enumerate(example.options)),
                 "duration": f"{sample.medium.duration_s:.1f}"}
        dialogue = messages_of(shown, example, TURNS[0].format(**parts))
        replies = []
        for turn in range(len(TURNS)):
            replies.append(self.client.ask(self.client.request(dialogue, sampling)).text)
            if turn + 1 < len(TURNS):
                dialogue = (*dialogue, Message("assistant", (replies[-1],)), Message("user", (TURNS[turn + 1].format(**parts),)))
        return join_turns(replies)

    def close(self) -> None:
        self.client.journal.close()


def _parts(prediction: Prediction) -> int:
    """How much of an evidence reply could be read."""
    return sum(part is not None for part in (prediction.answer, prediction.segments, reply_of(prediction).expressions))


def messages_of(shown: Shown, example: Example, prompt: str) -> tuple[Message, ...]:
    """One user turn: frames with their times, the pictures of the options under their letters, then the prompt."""
    parts: list[Part] = []
    for time, picture in zip(shown.times, shown.pictures, strict=True):
        if len(shown.times) > 1:
            parts.append(f"{time:.1f} s:")
        parts.append(picture)
    for index, data in enumerate(option_pictures(example)):
        parts += [f"Picture {letter(index)}:", Picture(data)]
    return (Message("user", (*parts, prompt)),)


def option_pictures(example: Example) -> Sequence[bytes]:
    """Encoded pictures that are the options of a question, in their order; none for most questions."""
    return [base64.b64decode(data) for data in example.source.get("option_pictures", ())]


def open_chat(preset_name: str, models: str, journal: str | Path, mode: Mode = "single-turn") -> ChatAdapter:
    """The preset's model where the role ``answerer`` of the ``models`` file says.

    Raises:
        ConfigError: no such preset, role or key.
    """
    preset = PRESETS[preset_name]
    if not models:
        raise ConfigError(f"--model {preset_name} needs --models FILE, whose role {ROLE!r} says where it is served")
    endpoint = read_endpoints(models, (ROLE,))[ROLE]
    if preset.temperature is None:
        endpoint = replace(endpoint, omit=sorted({*endpoint.omit, "temperature", "top_p"}))
    return ChatAdapter(preset_name, preset, ChatClient(ROLE, endpoint, Journal(journal, writable=endpoint.backend != "recorded")), mode)
