"""Preference pairs as training samples: a medium, its question and two replies, tokenised as one row ``[P, C1, C2]``.

The prompt ``P`` (video and question) stands once; both replies continue it, so both start at the same position. Which of their tokens count
is decided here; what the model does with such a row stands in ``unipixel.model.prefix``. Times that a side cites become words, cited
objects become ``<|seg|>``. Sides that are the same words and mean different objects can only teach which mask is right: their row is
``[P, C]``, and without masks they are left out.
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
from unipixel.sample import Example, Medium, PreferencePair, Sample

PREFERENCE = "preference"
"""The kind of pairs that are compared by their words; one kind for all media, so that an optimizer step may mix them."""
ONLY_MASKS = "only_masks"
"""The end of the kinds of pairs that are compared by their masks alone; ``_masks`` that of all kinds which use SAM 2."""
PAIR_KINDS = (PREFERENCE, *(f"{PREFERENCE}_{shown}_{compared}" for shown in ("image", "video") for compared in ("masks", ONLY_MASKS)))


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


def pair_kind(medium: Medium, pair: PreferencePair, *, masks: bool) -> str | None:
    """One of :data:`PAIR_KINDS`, or ``None`` for a pair that cannot train. ``masks``: whether the masks of cited objects are compared."""
    alike = sounds_alike(pair)
    shows = pair.chosen_objects and pair.rejected_objects and set(pair.chosen_objects) != set(pair.rejected_objects)
    if not (masks and shows and medium.kind != "none"):
        return None if alike else PREFERENCE
    return f"{PREFERENCE}_{'image' if medium.kind == 'image' else 'video'}_{ONLY_MASKS if alike else 'masks'}"


@dataclass
class EncodedPair(EncodedDialogue):
    """``[P, C1, C2]``: the chosen reply after its prompt, then the rejected one; ``[P, C]`` where both are the same words.

    ``seg`` has the ``<|seg|>`` of each reply that is there, ``masks`` and ``annotated`` the objects of both sides: chosen, rejected.

    Attributes:
        branches: tokens of the prompt and of each reply.
        mode: failure mode of the rejected one.
        whole: replies that lack the answer marker and therefore count as a whole.
    """

    branches: tuple[int, ...] = (0, 0, 0)
    mode: str = "other"
    whole: int = 0

    @property
    def predictors(self) -> Tensor:
        """The first token of the rejected reply is predicted by the prompt's last one, as that of the chosen reply is."""
        prompt, chosen, *_ = self.branches
        rows = super().predictors
        return torch.where(rows == prompt + chosen - 1, prompt - 1, rows)

    @property
    def label_counts(self) -> tuple[int, int]:
        """Supervised tokens of each side."""
        prompt, chosen, *_ = self.branches
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
                tokenizer elsewhere than the other one (``prompt_border``); the masks of both sides are equal, or not annotated, on all
                frames that were chosen (``same_masks``).
        """
        example, = sample.examples
        pair, = example.pairs
        rng = media.stable_rng(self.seed, sample.key, epoch)
        out = EncodedMedium(sample.key, size=(sample.medium.height, sample.medium.width))
        chosen = self.choose_frames(sample, rng)
        if chosen:
            self.add_frames(out, sample, chosen, masks_wanted=with_masks)
        drawn = media.stable_rng(self.seed, sample.dataset, example.example_id, epoch)
        wording = int(rng.integers(1 << 30)) if self.text.paraphrase else 0
        turns = template.turns_of(example, sample, self.text, wording, chosen)[:-1]
        row = self.encode_pair(pair, turns, sample, example, chosen, out, drawn, only_masks=with_masks and sounds_alike(pair))
        if with_masks:
            self.add_sides(row, pair, sample, chosen)
        out.dialogues.append(row)
        return out

    def encode_pair(self, pair: PreferencePair, turns, sample: Sample, example: Example, chosen: list[int], medium: EncodedMedium,
                    rng: np.random.Generator, only_masks: bool = False) -> EncodedPair:
        """``turns``: the dialogue up to the reply; ``chosen``: positions of the frames in ``medium``; ``rng``: of the visual prompts;
        ``only_masks``: one reply, of which no token counts."""
        key = pair_key(sample, example, pair)
        form = {"has_video": sample.medium.kind != "none", "form": self.chat_form(sample, chosen)}
        times = [sample.medium.frame_times[t] for t in chosen]
        prompts = self.visual_prompts([(example, rng)], sample, medium, chosen)
        head = self.encode_dialogue(template.render_turns(turns, **form), medium, times, key, prompts)
        sides, whole = [], 0
        for side in ("chosen",) if only_masks else ("chosen", "rejected"):
            text = reply_text(pair, side)
            start, found = (len(text), True) if only_masks else self.answer_start(text, key)
            *before, (reply, _) = template.render_turns([*turns, ("assistant", text)], **form).spans
            spans = (*before, (reply[:start], False), (reply[start:], not only_masks))
            sides.append(self.encode_dialogue(template.Rendered(spans), medium, times, key, prompts))
            whole += not found
        length = len(head.ids)
        if any(not side.ids[:length].equal(head.ids) for side in sides):
            raise SampleError("the replies change how the end of the prompt is cut into tokens", reason="prompt_border", key=key)
        row = {"ids": torch.cat([head.ids, *(side.ids[length:] for side in sides)]),
               "supervised": torch.cat([sides[0].supervised[:length] & (not only_masks), *(side.supervised[length:] for side in sides)]),
               "positions": torch.cat([head.positions, *(side.positions[:, length:] for side in sides)], 1)}
        row["seg"] = (row["ids"][length:] == self.seg_id).nonzero().flatten() + length
        lengths = length, *(len(side.ids) - length for side in sides)
        return EncodedPair(**vars(head) | row, branches=lengths, mode=pair.failure_mode, whole=whole)

    def add_sides(self, row: EncodedPair, pair: PreferencePair, sample: Sample, chosen: list[int]) -> None:
        """Masks of the objects that each side cites."""
        replies = len(row.branches) - 1
        if len(row.seg) != replies:
            raise SampleError(f"{len(row.seg)} {template.SEG} tokens in {replies} replies: their own texts must not hold any", reason="seg_count",
                              key=row.key)
        self.set_masks(row, sample, [pair.chosen_objects, pair.rejected_objects], chosen)
        both = row.annotated.all(0).nonzero().flatten().tolist()
        if not any(sorted(row.masks.get((0, t), ())) != sorted(row.masks.get((1, t), ())) for t in both):
            raise SampleError(f"{', '.join(pair.chosen_objects)} and {', '.join(pair.rejected_objects)} look the same, or are not annotated, in the "
                              f"{len(chosen)} frames that were chosen", reason="same_masks", key=row.key)

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
