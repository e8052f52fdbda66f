"""One sample -> arrays: frames decoded once and resized twice, dialogue tokenised once, targets as run lengths.

Runs in loader workers; no random state but the draw's own. What cannot be used raises :class:`SampleError`, nothing is cut or replaced.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unipixel.data import media, template
from unipixel.data.choose import choose_frames
from unipixel.data.layout import QWEN2_5_VL, VisualLayout
from unipixel.data.positions import VisualBlock, mrope_positions, reference_temporal_indices, temporal_indices
from unipixel.data.targets import mask_runs
from unipixel.data.visual_prompts import VisualPrompts, visual_prompts
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import EMPTY, Medium, Sample


@dataclass
class EncodedDialogue:
    """One dialogue over a medium.

    Attributes:
        ids: (L,) int64 with the visual placeholder repeated once per visual token.
        supervised: (L,) bool, tokens the model is trained to produce.
        positions: (4, L) int64: index inside this dialogue, then temporal, row and column rotary positions.
        seg: (O,) int64 positions of ``<|seg|>`` tokens.
        masks: (object, frame) -> COCO counts whose union is the target there; pairs without an entry have an empty target.
        annotated: (O, T) bool: frames where the target is known; the others are not supervised.
        visual: (Nv,) int64 positions of the visual tokens, in order.
        prompts: the objects that it points at, in the order of its ``<|ref|>`` and ``<|mem|>`` tokens.
    """

    ids: Tensor
    supervised: Tensor
    positions: Tensor
    seg: Tensor
    annotated: Tensor
    masks: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    key: str = ""
    visual: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    prompts: VisualPrompts = field(default_factory=VisualPrompts)

    @property
    def predictors(self) -> Tensor:
        """(L,) int64 positions whose states predict the supervised tokens."""
        return self.supervised.nonzero().flatten() - 1


@dataclass
class EncodedMedium:
    """Visual input of one medium, shared by its dialogues.

    Attributes:
        patches: (N, 1176) uint8 and ``grid`` (t, h, w) in patches, for the language model's vision tower.
        separate: every frame is a picture of its own, with a visual block of its own in the dialogues.
        frames: (T, 3, S, S) uint8 for SAM 2; ``None`` when no mask is wanted.
        size: (H, W) in pixels of the stored frames, which the targets refer to.
        shown: positions of the frames in the medium, in the order shown.
    """

    key: str
    dialogues: list[EncodedDialogue] = field(default_factory=list)
    patches: Tensor | None = None
    grid: tuple[int, int, int] | None = None
    separate: bool = False
    frames: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    shown: tuple[int, ...] = ()

    @property
    def token_grid(self) -> tuple[int, int, int] | None:
        """(t, h, w) in visual tokens."""
        return None if self.grid is None else (self.grid[0], self.grid[1] // media.MERGE, self.grid[2] // media.MERGE)

    @property
    def visual_tokens(self) -> int:
        return 0 if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2] // media.MERGE**2


def tokenize(rendered: template.Rendered, tokenizer, visual_tokens: int, key: str = "", blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Rendered dialogue -> (ids (L,), supervised (L,)), from ONE tokenisation of the whole text. ``blocks`` visual placeholders share the
    ``visual_tokens`` evenly.

    Raises:
        SampleError: a token straddles the border of a supervised span (``label_border``), or a text holds the visual placeholder.
    """
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = np.array(encoded["input_ids"]), np.array(encoded["offset_mapping"]).reshape(-1, 2)
    supervised, at = np.zeros(len(ids), dtype=bool), 0
    for text, wanted in rendered.spans:
        start, at = at, at + len(text)
        inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= at)
        crossing = (offsets[:, 0] < at) & (offsets[:, 1] > at)
        if crossing.any():
            token = rendered.text[slice(*offsets[crossing][0])]
            raise SampleError(f"token {token!r} crosses the border of a supervised span", reason="label_border", key=key)
        supervised |= inside & wanted
    pad = tokenizer.convert_tokens_to_ids(template.VIDEO_PAD)
    wanted = blocks if visual_tokens else 0
    if (ids == pad).sum() != wanted:
        raise SampleError(f"{template.VIDEO_PAD} stands {(ids == pad).sum()} times in the dialogue, not {wanted}: it must not occur in the texts of "
                          "a sample",
                          reason="visual_placeholder", key=key)
    repeats = np.where(ids == pad, visual_tokens // blocks, 1)
    return torch.from_numpy(np.repeat(ids, repeats)), torch.from_numpy(np.repeat(supervised, repeats))


def cell_times(times: list[float]) -> list[float]:
    """Time of each temporal cell: its first frame's. An odd last frame makes a cell of its own."""
    return times[:: media.TEMPORAL]


def spoken_times(times: list[float]) -> tuple[float, ...]:
    """Time of each temporal cell as timestamps say it: the middle between its first and last frame."""
    last = [times[min(i + media.TEMPORAL, len(times)) - 1] for i in range(0, len(times), media.TEMPORAL)]
    return tuple((a + b) / 2 for a, b in zip(cell_times(times), last))


class SampleEncoder:
    """Sample + draw -> :class:`EncodedMedium`.

    Args:
        tokenizer: a fast Hugging Face tokenizer that knows the special tokens of ``unipixel.data.template``.
        sam_size: side in pixels of the square SAM 2 input.
        max_tokens: a dialogue longer than this raises :class:`SampleError` (``too_long``): it is skipped and counted, never cut.
        max_turns: examples of a medium become the turns of one dialogue, at most this many, in an order drawn per epoch.
        max_objects: at most this many masks of a medium are supervised, drawn per epoch; 0 means all.
        seed: randomness of frames and wordings is a function of (seed, key, epoch).
        layout: how the backbone is shown frames.
    """

    def __init__(self, tokenizer, frames: media.FrameSettings, text: template.TemplateSettings, *, sam_size: int,
                 max_tokens: int = 40_960, max_turns: int = 1, max_objects: int = 0, seed: int = 0,
                 layout: VisualLayout = QWEN2_5_VL):
        self.tokenizer, self.frame_settings, self.text, self.sam_size = tokenizer, frames, text, sam_size
        self.max_tokens, self.max_turns, self.max_objects = max_tokens, max_turns, max_objects
        self.seed, self.layout = seed, layout
        if frames.prompt_tokens and text.prompt == "plain":
            raise ConfigError(f"prompt_tokens={frames.prompt_tokens} limits the pictures of film prompts: prompt={text.prompt!r} has none")
        self.seg_id, self.ref_id, self.mem_id = tokenizer.convert_tokens_to_ids([template.SEG, template.REF, template.MEM])

    def __call__(self, sample: Sample, epoch: int = 0, with_masks: bool = True) -> EncodedMedium:
        """``with_masks``: prepare the SAM 2 frames and the targets; language-only steps do without."""
        rng = media.stable_rng(self.seed, sample.key, epoch)
        out = EncodedMedium(sample.key, size=(sample.medium.height, sample.medium.width))
        chosen = self.choose_frames(sample, rng)
        out.shown = tuple(chosen)
        times = [sample.medium.frame_times[t] for t in chosen]
        if chosen:
            self.add_frames(out, sample, chosen, masks_wanted=with_masks and any(e.targets for e in sample.examples))
        kept = self.keep_objects(sample, rng)
        order = rng.permutation(len(sample.examples)) if self.max_turns > 1 else np.arange(len(sample.examples))
        # labels of regions belong to one example: two of them in a dialogue would name different objects alike; film prompts hold the pictures
        alone = any(example.regions for example in sample.examples) or template.in_pictures(sample.medium, self.text)
        per_dialogue = 1 if alone else self.max_turns
        for start in range(0, len(order), per_dialogue):
            turns = order[start:start + per_dialogue].tolist()
            wordings = [int(rng.integers(1 << 30)) if self.text.paraphrase else 0 for _ in turns]
            key = ", ".join(sample.examples[i].example_id for i in turns)
            drawn = [(e, media.stable_rng(self.seed, sample.dataset, e.example_id, epoch)) for e in map(sample.examples.__getitem__, turns)]
            prompts = self.visual_prompts(drawn, sample, out, chosen)
            rendered = template.render(sample, self.text, turns, wordings, chosen, self.chat_form(sample, chosen))
            dialogue = self.encode_dialogue(rendered, out, times, key, prompts)
            if with_masks:
                targets = [(i, o) for i in turns for o in range(len(sample.examples[i].targets))]
                self.add_targets(dialogue, sample, targets, kept, chosen)
            out.dialogues.append(dialogue)
        return out

    def chat_form(self, sample: Sample, chosen: list[int]) -> template.ChatForm:
        """What the backbone's chat format has of its own, for the given frames of a sample."""
        if template.in_pictures(sample.medium, self.text) or not chosen:
            return template.ChatForm(self.layout.system_prompt, placed=True)
        times = self.frame_times([sample.medium.frame_times[t] for t in chosen])
        spoken = spoken_times(times) if self.layout.timestamps and sample.medium.kind != "image" else None
        return template.ChatForm(self.layout.system_prompt, spoken)

    def frame_times(self, times: list[float]) -> list[float]:
        """Seconds that the language model is told: the true ones, or the reference's fixed rate."""
        return [i / 2 for i in range(len(times))] if self.frame_settings.reference_times else times

    def keep_objects(self, sample: Sample, rng: np.random.Generator) -> set[tuple[int, int]]:
        """(example, target) pairs whose masks are supervised this time, at most ``max_objects``; the language loss covers all."""
        pairs = [(i, o) for i, example in enumerate(sample.examples) for o in range(len(example.targets))]
        if 0 < self.max_objects < len(pairs):
            pairs = [pairs[n] for n in rng.permutation(len(pairs))[: self.max_objects]]
        return set(pairs)

    def visual_prompts(self, examples, sample: Sample, medium: EncodedMedium, chosen: list[int]) -> VisualPrompts:
        """What the examples of a dialogue point at; see ``unipixel.data.visual_prompts``."""
        if medium.grid is None:
            return VisualPrompts()
        return visual_prompts(examples, sample.medium, chosen, medium.token_grid, self.sam_size)

    def choose_frames(self, sample: Sample, rng: np.random.Generator) -> list[int]:
        """Positions of the frames to show, in the order shown; see ``unipixel.data.choose``.

        Raises:
            SampleError: the words alone are more than ``prompt_tokens`` (``too_long``).
        """
        settings = self.frame_settings
        if not template.in_pictures(sample.medium, self.text):
            return sorted(choose_frames(sample, settings, rng))  # one video has one order of time
        if not settings.prompt_tokens:
            return choose_frames(sample, settings, rng)
        state = rng.bit_generator.state

        def chosen(count: int) -> list[int]:
            rng.bit_generator.state = state
            return choose_frames(sample, settings, rng, count)

        def excess(count: int) -> int:
            return self.prompt_length(sample, chosen(count)) - settings.prompt_tokens

        most = settings.num_frames if settings.show_frames == "all" else 0
        # more pictures have more words, but for what is said over two of them: the count found fits and may miss the largest one by a few
        count = bisect.bisect_right(range(most + 1), 0, key=excess) - 1
        if count < 0:
            raise SampleError(f"{excess(0)} tokens more than prompt_tokens={settings.prompt_tokens} without any pooled picture", reason="too_long",
                              key=sample.key)
        return chosen(count)

    def picture_tokens(self, medium: Medium) -> int:
        """Visual tokens of one picture."""
        height, width = media.llm_size(medium.height, medium.width, self.frame_settings, self.layout)
        return height * width // self.layout.token**2

    def prompt_length(self, sample: Sample, chosen: list[int]) -> int:
        """Tokens of the longest question about a film, with its pictures, before the reply."""
        form = self.chat_form(sample, chosen)
        texts = [template.render_prompt(sample, self.text, i, chosen, form).text for i in range(len(sample.examples))]
        words = max(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"]))
        return words + len(chosen) * (self.picture_tokens(sample.medium) - 1)  # each picture has one placeholder among the words

    def add_frames(self, out: EncodedMedium, sample: Sample, chosen: list[int], masks_wanted: bool) -> None:
        frames = media.decode_frames(sample.frames, chosen, (sample.medium.height, sample.medium.width), sample.key,
                                     self.frame_settings.video_decoder)
        out.separate = template.in_pictures(sample.medium, self.text)
        out.patches, out.grid = media.patchify(media.resize_for_llm(frames, self.frame_settings, self.layout), self.layout, separate=out.separate)
        if masks_wanted:
            out.frames = _pad_frames(media.resize_for_sam2(frames, self.sam_size), self.sam_frames(sample.medium))

    def sam_frames(self, medium: Medium) -> int:
        """Frames SAM 2 unrolls over: one for an image, else always ``num_frames``, so that all ranks make the same calls."""
        return 1 if medium.kind == "image" else self.frame_settings.num_frames

    def encode_dialogue(self, rendered: template.Rendered, medium: EncodedMedium, times: list[float], key: str,
                        prompts: VisualPrompts | None = None) -> EncodedDialogue:
        """
        Args:
            times: seconds of the frames in ``medium``.
            prompts: what the dialogue points at; nothing when not given.
        """
        blocks = medium.grid[0] if medium.grid and self.in_cells(medium) else 1
        ids, supervised = tokenize(rendered, self.tokenizer, medium.visual_tokens, key, blocks)
        if len(ids) > self.max_tokens:
            raise SampleError(f"{len(ids)} tokens, max_tokens={self.max_tokens}", reason="too_long", key=key)
        visual = (ids == self.tokenizer.convert_tokens_to_ids(template.VIDEO_PAD)).nonzero().flatten()
        blocks = self.visual_blocks(visual, medium, times) if medium.grid else []
        positions = torch.cat([torch.arange(len(ids))[None], mrope_positions(len(ids), blocks)])
        seg = (ids == self.seg_id).nonzero().flatten()
        return EncodedDialogue(ids, supervised, positions, seg, torch.zeros(0, 0, dtype=torch.bool), key=key, visual=visual,
                               prompts=self.place_prompts(prompts or VisualPrompts(), ids, key))

    def in_cells(self, medium: EncodedMedium) -> bool:
        """Whether every temporal cell has a visual block of its own: a picture, or a piece of video behind its time in text."""
        return self.layout.timestamps or medium.separate

    def visual_blocks(self, visual: Tensor, medium: EncodedMedium, times: list[float]) -> list[VisualBlock]:
        """Runs of visual tokens: one per medium with its times in the positions, or one per temporal cell."""
        grid = medium.token_grid
        if self.in_cells(medium):
            return [VisualBlock(start, (1, *grid[1:]), [0]) for start in visual[:: grid[1] * grid[2]].tolist()]
        reference = self.frame_settings.reference_times
        return [VisualBlock(int(visual[0]), grid, reference_temporal_indices(grid[0]) if reference else temporal_indices(cell_times(times)))]

    def place_prompts(self, prompts: VisualPrompts, ids: Tensor, key: str) -> VisualPrompts:
        """Positions of the prompts' tokens.

        Raises:
            SampleError: the dialogue does not have one token per prompt (``prompt_count``), for example because a text holds one.
        """
        prompts.ref_rows, prompts.mem_rows = ((ids == token).nonzero().flatten() for token in (self.ref_id, self.mem_id))
        for rows, wanted, token in ((prompts.ref_rows, prompts.pointers, template.REF), (prompts.mem_rows, prompts.cells, template.MEM)):
            if len(rows) != len(wanted):
                raise SampleError(f"{len(rows)} {token} tokens for {len(wanted)} prompts", reason="prompt_count", key=key)
        return prompts

    def add_targets(self, dialogue: EncodedDialogue, sample: Sample, targets: list[tuple[int, int]], kept: set[tuple[int, int]],
                    chosen: list[int]) -> None:
        """Run lengths of the kept targets; frames where any of their objects is unannotated are not supervised.

        ``targets`` are the (example, target) pairs in the order of the dialogue's ``<|seg|>`` tokens.
        """
        if len(dialogue.seg) != len(targets):
            raise SampleError(f"{len(dialogue.seg)} {template.SEG} tokens for {len(targets)} targets", reason="seg_count", key=dialogue.key)
        dialogue.seg = dialogue.seg[[pair in kept for pair in targets]]
        self.set_masks(dialogue, sample, [sample.examples[i].targets[target] for i, target in targets if (i, target) in kept], chosen)

    def set_masks(self, dialogue: EncodedDialogue, sample: Sample, targets: Sequence[Sequence[str]], chosen: list[int]) -> None:
        """Masks of ``targets``, each the union of the named objects, on the frames at the positions ``chosen``."""
        if not targets:
            return
        dialogue.annotated = torch.zeros(len(targets), self.sam_frames(sample.medium), dtype=torch.bool)
        for o, oids in enumerate(targets):
            tracks = [sample.medium.objects[oid].track for oid in oids]
            for t, position in enumerate(chosen):
                if all(track.entries[position] is not None for track in tracks):
                    dialogue.annotated[o, t] = True
                    visible = [track.entries[position] for track in tracks if track.entries[position] != EMPTY]
                    if visible:
                        dialogue.masks[o, t] = visible
        # collating reads them; damage has to show here, where the sample can still be replaced
        mask_runs(dict(enumerate(dialogue.masks.values())), (sample.medium.height, sample.medium.width), dialogue.key)


def _pad_frames(frames: Tensor, total: int) -> Tensor:
    """Repeat the last frame up to ``total``; the copies are never supervised."""
    return torch.cat([frames, frames[-1:].expand(total - len(frames), -1, -1, -1)]) if len(frames) < total else frames
