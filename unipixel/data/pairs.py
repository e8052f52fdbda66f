"""Preference pairs as training samples: a medium, its question and two replies, tokenised as one row ``[P, C1, C2]``.

The prompt ``P`` (video and question) stands once; both replies continue it, so both start at the same position. Which of their tokens count
is decided here; what the model does with such a row stands in ``unipixel.model.prefix``. Times that a side cites become words, cited
objects become ``<|seg|>``: a pair whose sides differ in neither words nor times cannot teach a language model, and is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unipixel.config import setting
from unipixel.data import media, template
from unipixel.data.encode import EncodedDialogue, EncodedMedium, SampleEncoder
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Example, PreferencePair, Sample

PREFERENCE = "preference"
"""The kind of these samples; one kind for all media, so that an optimizer step may mix them."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Which tokens of a reply the preference is about."""

    supervise: str = setting("reply", "tokens that count: reply (all of it), or answer (what follows answer_marker)")
    answer_marker: str = setting("Final Answer:", "what stands before the answer; found in any case, with spaces or ** around its colon")
    marker_missing: str = setting("skip", "a reply without answer_marker: skip the pair (counted and listed), or whole: all its tokens count")

    def __post_init__(self):
        for name, allowed in (("supervise", ("reply", "answer")), ("marker_missing", ("skip", "whole"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {allowed}")
        if not self.answer_marker.rstrip(": "):
            raise ConfigError(f"answer_marker={self.answer_marker!r} holds no word")


def marker_pattern(marker: str) -> re.Pattern:
    """``Final Answer:`` also as ``final answer:``, ``FINAL ANSWER :``, ``**Final Answer:**``, ``**Final Answer**:``, ``Final  answer:``."""
    words = r"\s+".join(map(re.escape, marker.rstrip(": ").split()))
    return re.compile(rf"\b{words}\s*(?:\*\*)?\s*:(?:\*\*)?", re.IGNORECASE)


def reply_text(pair: PreferencePair, side: str) -> str:
    """What the model says on one side (``chosen`` or ``rejected``): its words, then its evidence in the form of trained replies."""
    text, segments, objects = (getattr(pair, side + suffix) for suffix in ("", "_segments", "_objects"))
    parts = [text.strip()]
    if segments is not None:
        parts.append(f"Temporal Evidence: {template.format_segments(segments)}.")
    if objects:
        parts.append(f"Spatial Evidence: {template.SEG}.")
    return " ".join(parts)


def sounds_alike(pair: PreferencePair) -> bool:
    """Whether both sides are the same words: they differ in which objects are meant, which the words do not say."""
    return reply_text(pair, "chosen") == reply_text(pair, "rejected")


@dataclass
class EncodedPair(EncodedDialogue):
    """``[P, C1, C2]``: the chosen reply after its prompt, then the rejected one.

    Attributes:
        branches: tokens of the prompt and of each reply.
        mode: failure mode of the rejected one.
        whole: replies that lack the answer marker and therefore count as a whole.
    """

    branches: tuple[int, int, int] = (0, 0, 0)
    mode: str = "other"
    whole: int = 0

    @property
    def predictors(self) -> Tensor:
        """The first token of the rejected reply is predicted by the prompt's last one, as that of the chosen reply is."""
        prompt, chosen, _ = self.branches
        rows = super().predictors
        return torch.where(rows == prompt + chosen - 1, prompt - 1, rows)

    @property
    def label_counts(self) -> tuple[int, int]:
        """Supervised tokens of each side."""
        prompt, chosen, _ = self.branches
        return int(self.supervised[:prompt + chosen].sum()), int(self.supervised[prompt + chosen:].sum())


def pair_fields(pairs: Sequence[EncodedPair]) -> dict:
    """Keys of a batch of B pairs, all plain values: ``branches``, lengths of prompt and replies; ``label_counts``, supervised tokens of each
    side; ``modes``; ``whole_replies``, how many lack the marker. Labels are in the order of the row: chosen, rejected, next pair."""
    return {"branches": tuple(p.branches for p in pairs), "label_counts": tuple(p.label_counts for p in pairs),
            "modes": tuple(p.mode for p in pairs), "whole_replies": sum(p.whole for p in pairs)}


class PairEncoder(SampleEncoder):
    """Sample with one example and one pair -> :class:`EncodedMedium` with one :class:`EncodedPair`; arguments as :class:`SampleEncoder`."""

    def __init__(self, *args, pairs: PairSettings, **kwargs):
        super().__init__(*args, **kwargs)
        self.pairs, self.marker = pairs, marker_pattern(pairs.answer_marker)

    def __call__(self, sample: Sample, epoch: int = 0, with_masks: bool = False) -> EncodedMedium:
        """
        Raises:
            SampleError: a reply lacks the marker (``marker_missing``), is as long as no model takes (``too_long``), or is cut by the
                tokenizer elsewhere than the other one (``prompt_border``).
        """
        example, = sample.examples
        pair, = example.pairs
        rng = media.stable_rng(self.seed, sample.key, epoch)
        out = EncodedMedium(sample.key, size=(sample.medium.height, sample.medium.width))
        chosen = self.choose_frames(sample, rng)
        if chosen:
            self.add_frames(out, sample, chosen, masks_wanted=False)
        drawn = media.stable_rng(self.seed, sample.dataset, example.example_id, epoch)
        wording = int(rng.integers(1 << 30)) if self.text.paraphrase else 0
        turns = template.turns_of(example, sample, self.text, wording, chosen)[:-1]
        out.dialogues.append(self.encode_pair(pair, turns, sample, example, chosen, out, drawn))
        return out

    def encode_pair(self, pair: PreferencePair, turns, sample: Sample, example: Example, chosen: list[int], medium: EncodedMedium,
                    rng: np.random.Generator) -> EncodedPair:
        """``turns``: the dialogue up to the reply; ``chosen``: positions of the frames in ``medium``; ``rng``: of the visual prompts."""
        key = pair_key(sample, example, pair)
        form = {"has_video": sample.medium.kind != "none", "form": self.chat_form(sample, chosen)}
        times = [sample.medium.frame_times[t] for t in chosen]
        prompts = self.visual_prompts([(example, rng)], sample, medium, chosen)
        head = self.encode_dialogue(template.render_turns(turns, **form), medium, times, key, prompts)
        sides, whole = [], 0
        for side in ("chosen", "rejected"):
            text = reply_text(pair, side)
            start, found = self.answer_start(text, key)
            *before, (reply, _) = template.render_turns([*turns, ("assistant", text)], **form).spans
            spans = (*before, (reply[:start], False), (reply[start:], True))
            sides.append(self.encode_dialogue(template.Rendered(spans), medium, times, key, prompts))
            whole += not found
        length = len(head.ids)
        if any(not side.ids[:length].equal(head.ids) for side in sides):
            raise SampleError("the replies change how the end of the prompt is cut into tokens", reason="prompt_border", key=key)
        first, second = sides
        row = {"ids": torch.cat([first.ids, second.ids[length:]]), "supervised": torch.cat([first.supervised, second.supervised[length:]]),
               "positions": torch.cat([first.positions, second.positions[:, length:]], 1)}
        lengths = length, len(first.ids) - length, len(second.ids) - length
        return EncodedPair(**vars(head) | row, branches=lengths, mode=pair.failure_mode, whole=whole)

    def answer_start(self, reply: str, key: str) -> tuple[int, bool]:
        """(character from which the reply counts, whether the marker was found when it is wanted)."""
        if self.pairs.supervise == "reply":
            return 0, True
        matches = list(self.marker.finditer(reply))
        if matches:
            return matches[-1].end(), True
        if self.pairs.marker_missing == "skip":
            raise SampleError(f"the reply {reply[:80]!r} does not hold {self.pairs.answer_marker!r}: set marker_missing: whole to count all of it",
                              reason="marker_missing", key=key)
        return 0, False


def pair_key(sample: Sample, example: Example, pair: PreferencePair) -> str:
    """Name of a pair that no other one of the training data has."""
    return "/".join((sample.dataset, sample.key, example.example_id, pair.pair_id))


def one_pair(sample: Sample, number: int) -> Sample:
    """``sample`` with its only example reduced to one of its pairs."""
    example, = sample.examples
    return dataclasses.replace(sample, examples=(dataclasses.replace(example, pairs=(example.pairs[number],)),))
