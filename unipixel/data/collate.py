"""Encoded media -> one packed batch: all dialogues in one row, each attending only to itself, vision inputs concatenated once.

Legend: ``S`` tokens of the row, ``L`` supervised tokens, ``Nv`` visual tokens in the row, ``V`` videos with masks, ``T`` frames,
``O`` objects, ``N`` patches. All bookkeeping that would need a device synchronisation in the model is done here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unipixel.data.encode import EncodedMedium
from unipixel.data.pairs import PREFERENCE, pair_fields
from unipixel.data.targets import mask_runs
from unipixel.data.visual_prompts import pack_prompts

Batch = dict
"""Keys: see :func:`collate`. Tensors travel to the device, everything else is bookkeeping."""


def collate(media: Sequence[EncodedMedium], kind: str) -> Batch:
    """Pack media of one kind.

    Returns a dict with
        input_ids (1, S) int64; position_ids (4, 1, S) int64, row 0 restarting per dialogue;
        label_rows (L,) int64 positions whose hidden state predicts ``label_ids`` (L,) int64;
        visual_rows (Nv,) int64 positions of visual tokens, ``visual_index`` (Nv,) int64 which feature each takes;
        patches (N, P) uint8 and grids, (t, h, w) in patches per medium as plain integers, which stay on the host; absent without vision;
        ref_* and mem_*: points, boxes and regions, see ``unipixel.data.visual_prompts.pack_prompts``;
        sam_frames (V * T, 3, S, S) uint8, object_rows (O,) int64 positions that predict each ``<|seg|>``, object_video (O,) int64,
        mask_runs one ``unipixel.data.targets.MaskRuns`` per frame size, as a dict, mask_valid (T, O) bool: present exactly when ``kind``
        has masks. ``unipixel.data.targets.batch_targets`` paints them.
        of preference pairs: see ``unipixel.data.pairs.pair_fields``; their masks are those of both sides, also where one ``<|seg|>`` stands for
        both;
        segment_lengths tuple of int: tokens per dialogue; kind, keys: bookkeeping.
    """
    with_masks = kind.endswith("_masks")
    rows, positions, label_rows, label_ids, visual_rows, visual_index = [], [], [], [], [], []
    object_rows, object_video, valid, keys, prompts = [], [], [], [], []
    targets: dict[tuple[int, int], dict[tuple[int, int], list[str]]] = {}  # frame size -> (frame, object of the batch) -> counts
    at = features = 0
    for video, medium in enumerate(media):
        for dialogue in medium.dialogues:
            length = len(dialogue.ids)
            rows.append(dialogue.ids)
            positions.append(dialogue.positions)
            label_rows.append(dialogue.predictors + at)
            label_ids.append(dialogue.ids[dialogue.supervised])
            prompts.append((dialogue.prompts, at, features))
            if medium.grid is not None:
                visual_rows.append(dialogue.visual + at)
                visual_index.append(torch.arange(features, features + medium.visual_tokens))
            if with_masks:
                object_rows.append(dialogue.seg - 1 + at)
                object_video.append(torch.full_like(dialogue.seg, video))
                if len(dialogue.seg):
                    before = sum(map(len, valid))
                    targets.setdefault(medium.size, {}).update({(t, before + o): counts for (o, t), counts in dialogue.masks.items()})
                    valid.append(dialogue.annotated)
            keys.append(dialogue.key)
            at += length
        features += medium.visual_tokens
    batch = {"kind": kind, "keys": keys, "input_ids": torch.cat(rows)[None], "position_ids": torch.cat(positions, 1)[:, None],
             "segment_lengths": tuple(len(r) for r in rows), "label_rows": torch.cat(label_rows), "label_ids": torch.cat(label_ids)}
    batch |= pack_prompts(prompts)
    if kind.startswith(PREFERENCE):
        batch |= pair_fields([dialogue for medium in media for dialogue in medium.dialogues])
    if visual_rows:
        batch |= {"visual_rows": torch.cat(visual_rows), "visual_index": torch.cat(visual_index),
                  "patches": torch.cat([m.patches for m in media if m.patches is not None]),
                  "grids": tuple(m.grid for m in media if m.grid is not None)}
    if with_masks:
        frames, annotated = torch.cat([m.frames for m in media]), torch.cat(valid)
        runs = [mask_runs({t * len(annotated) + o: counts for (t, o), counts in masks.items()}, size, ", ".join(keys))
                for size, masks in targets.items()]
        batch |= {"sam_frames": frames, "object_rows": torch.cat(object_rows), "object_video": torch.cat(object_video),
                  "mask_runs": [vars(r) for r in runs], "mask_valid": annotated.T.contiguous()}
    return batch
