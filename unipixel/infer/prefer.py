"""``unipixel pairs accuracy``: how often a trained model prefers the chosen side of pairs, by its words and by its masks.

``plain`` compares the two sides under the model itself. ``reward`` compares how much each gained over a reference model, usually the one that
preference training started from: what DPO trains, and what its training log reports. Pairs of one kind are scored in batches; nothing is
generated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import send_to_device
from tabulate import tabulate
from tqdm import tqdm

from unipixel.config import parse, setting
from unipixel.data.collate import collate
from unipixel.data.ledger import SkipLedger
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PairEncoder, PairSettings
from unipixel.data.shards import ShardDataset
from unipixel.data.targets import batch_targets
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predictions import part_path
from unipixel.infer.settings import evaluation_settings
from unipixel.model.build import load_checkpoint
from unipixel.model.checkpoint import read_config
from unipixel.objectives.preference import mask_margins, reply_rows

SCHEMA = "unipixel-pair-accuracy/1"


@dataclass(kw_only=True)
class PreferSettings:
    """Which model, against what, on which pairs."""

    checkpoint: str = setting("", "trained model folder")
    reference: str = setting("", "model folder that it is compared with, for `reward`; empty: `plain` only")
    backbone: str = setting("", "base model folder, when it is not where the checkpoints say")
    shards: list[str] = setting([], "packed folders with pairs that were not trained on")
    out: str = setting("", "result as JSON, with a row per pair")
    beta: float = setting(0.1, "weight of the words, per nat")
    mask_beta: float = setting(1.0, "weight of the masks, per nat and pixel where they differ; 0: pairs are compared by their words only")
    batch_size: int = setting(8, "pairs in a forward pass")
    limit: int = setting(0, "only the first N pairs; 0: all")
    device: str = setting("auto", "cuda, cpu, or auto")

    def __post_init__(self):
        for name in ("checkpoint", "shards", "out"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is empty")
        if self.beta <= 0 or self.mask_beta < 0 or self.batch_size < 1 or self.limit < 0:
            raise ConfigError(f"beta={self.beta} must be positive, mask_beta={self.mask_beta} and limit={self.limit} not negative, "
                              f"batch_size={self.batch_size} at least 1")


class Margin(NamedTuple):
    """Log-likelihood of what the chosen side says minus that of the rejected side: of its words in nats, of its masks in nats per pixel where they
    differ; ``None`` where a pair does not compare them."""

    mode: str
    words: float | None
    masks: float | None

    def total(self, settings: PreferSettings) -> float:
        return settings.beta * (self.words or 0.0) + settings.mask_beta * (self.masks or 0.0)


@torch.inference_mode()
def margins(checkpoint: str, settings: PreferSettings, groups: PairGroups, ledger: SkipLedger) -> dict[str, Margin]:
    """Of all pairs under one model. Pairs that cannot be used are listed."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    stored = read_config(checkpoint).get("unipixel", {})
    frames, text = evaluation_settings(stored)
    model, tokenizer = load_checkpoint(checkpoint, backbone=settings.backbone, device=device)
    encoder = PairEncoder(tokenizer, frames, text, sam_size=model.sam2.image_size, layout=model.family.layout, pairs=PairSettings())
    found: dict[str, Margin] = {}
    with tqdm(total=min(len(groups), settings.limit or len(groups)), desc=f"score {Path(checkpoint).name}", unit="pair") as bar:
        for kind, numbers in _by_kind(groups, settings):
            media = []
            for number in numbers:
                bar.update()
                place = groups.dataset.place(groups.rows[number][0])
                with ledger.catching(place[0], place[2]):
                    media.append(encoder(groups.sample(number), with_masks=kind.endswith("_masks")))
            if not media:
                continue
            batch = send_to_device(collate(media, kind), device)
            scores = model(**batch)
            words = masks = [None] * len(media)
            if scores.policy is not None:
                chosen, rejected = reply_rows(scores.policy.log_probs.double(), batch["label_counts"]).sum(1).chunk(2)
                words = (chosen - rejected).tolist()
            if scores.masks is not None:
                masks = mask_margins(scores.masks.masks, batch_targets(batch), batch["mask_valid"]).tolist()
            found |= dict(zip(batch["keys"], map(Margin, batch["modes"], words, masks), strict=True))
    return found


def _by_kind(groups: PairGroups, settings: PreferSettings) -> Iterator[tuple[str, Sequence[int]]]:
    for code, kind in enumerate(groups.kinds):
        numbers = np.flatnonzero(groups.kind_of[:settings.limit or None] == code).tolist()
        for start in range(0, len(numbers), settings.batch_size):
            yield kind, numbers[start:start + settings.batch_size]


def result(settings: PreferSettings, policy: dict[str, Margin], reference: dict[str, Margin] | None) -> dict:
    """Accuracies of all pairs and of each failure mode; a tie is wrong."""
    rows, names = {}, ["plain"] if reference is None else ["plain", "reward"]
    for key, own in policy.items():
        rows[key] = own._asdict() | {"plain": own.total(settings) > 0}
        if reference is not None:
            theirs = reference[key]
            rows[key] |= {"reference_words": theirs.words, "reference_masks": theirs.masks, "reward": own.total(settings) > theirs.total(settings)}
    modes = ("all", *sorted({row["mode"] for row in rows.values()}))
    groups = {mode: [row for row in rows.values() if mode in ("all", row["mode"])] for mode in modes}
    accuracy = {mode: {"pairs": len(group)} | {name: sum(row[name] for row in group) / len(group) for name in names}
                for mode, group in groups.items()}
    return {"schema": SCHEMA, "checkpoint": settings.checkpoint, "reference": settings.reference or None, "beta": settings.beta,
            "mask_beta": settings.mask_beta, "shards": settings.shards, "accuracy": accuracy, "per_pair": rows}


def run(settings: PreferSettings) -> dict:
    """Score, print the table, write the file.

    Raises:
        DataError: the data holds no usable pair.
    """
    groups, ledger = PairGroups(ShardDataset(settings.shards), masks=settings.mask_beta > 0), SkipLedger()
    policy = margins(settings.checkpoint, settings, groups, ledger)
    reference = margins(settings.reference, settings, groups, SkipLedger()) if settings.reference else None
    if not policy:
        raise DataError(f"none of {len(groups)} pairs can be used: {ledger.counts}")
    found = result(settings, policy, reference) | {"skipped": ledger.counts, "left_out": len(groups.left_out)}
    part = part_path(settings.out)
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(settings.out)
    rows = [{"mode": mode, **{name: value if name == "pairs" else f"{100 * value:.1f} %" for name, value in row.items()}}
            for mode, row in found["accuracy"].items()]
    print(tabulate(rows, headers="keys", disable_numparse=True))
    print("\n".join(ledger.summary()) or "nothing skipped")
    return found


def main(argv: list[str] | None = None) -> int:
    try:
        (settings,) = parse([PreferSettings], argv, prog="unipixel pairs accuracy")
        run(settings)
    except UniPixelError as error:
        print(f"unipixel pairs accuracy: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
