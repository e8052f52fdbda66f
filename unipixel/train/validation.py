"""Validation while training: the mean loss per supervised word on media that do not train, at every checkpoint, and the best checkpoint.

Words only: the rate at which masks improve is seen in TensorBoard's panels. Every rank makes the same number of passes of the same kind, so
that sharded weights are gathered together; the loss does not depend on the number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback

from unipixel.data.collate import Batch, collate
from unipixel.data.encode import SampleEncoder
from unipixel.data.loader import Groups, Skip
from unipixel.data.shards import ShardDataset
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.objectives.language import cross_entropy_sum

if TYPE_CHECKING:
    from unipixel.train.trainer import GroundedTrainer

TEST = "test"
MEDIUM = "medium_id"
NAMED = 5
"""Media that a message names."""


class Evaluate(TrainerCallback):
    """Validation goes with each regular checkpoint; one that is written because the run must stop has no time for it."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save
        return control


class Validation:
    """Groups of examples in a fixed order, encoded alike each time.

    Args:
        encoder: of the training; frames are spread uniformly and the first wording is used, as in prediction.
    """

    def __init__(self, groups: Groups, encoder: SampleEncoder):
        frames, text = encoder.frame_settings, encoder.text
        if frames.frame_sampling == "random":
            frames = dataclasses.replace(frames, frame_sampling="uniform")
        self.groups = groups
        self.encoder = SampleEncoder(encoder.tokenizer, frames, dataclasses.replace(text, paraphrase=False), sam_size=encoder.sam_size,
                                     max_tokens=encoder.max_tokens, max_turns=encoder.max_turns, seed=encoder.seed, layout=encoder.layout)
        self.listed = False

    def draws(self, rank: int, world: int) -> Iterator[tuple[int, str, bool]]:
        """(group, kind without masks, whether it counts) for one rank; ranks without a group of their own repeat one, which does not count."""
        kinds: dict[str, list[int]] = {}
        for group, code in enumerate(self.groups.kind_of):
            kinds.setdefault(self.groups.kinds[code].removesuffix("_masks"), []).append(group)
        for kind, members in sorted(kinds.items()):
            for start in range(0, len(members), world):
                yield members[min(start + rank, len(members) - 1)], kind, start + rank < len(members)

    def batch(self, group: int, kind: str) -> Batch:
        return collate([self.encoder(self.groups.sample(group), with_masks=False)], kind)

    @torch.no_grad()
    def loss(self, trainer: GroundedTrainer) -> float:
        """Mean cross-entropy in nats per supervised token. A collective. Unusable samples are listed in ``skipped.jsonl`` once.

        Raises:
            DataError: no sample can be used.
        """
        args, model = trainer.args, trainer.model_wrapped
        total, skips, training = torch.zeros(2, dtype=torch.float64, device=args.device), [], model.training
        model.eval()
        usable: Batch | None = None
        try:
            for group, kind, counts in tqdm(list(self.draws(args.process_index, args.world_size)), desc="validation", disable=args.disable_tqdm,
                                            leave=False):
                try:
                    batch = usable = self.batch(group, kind)
                except SampleError as error:
                    if counts:
                        shard, offset, key = self.groups.dataset.place(self.groups.rows[group][0])
                        skips.append(Skip(shard, offset, key, error.reason, str(error), trainer.state.global_step))
                    batch, counts = usable, False
                    if batch is None and args.world_size == 1:
                        continue
                    if batch is None:
                        raise DataError(f"eval_shards: {error}; repair the shards: another process waits for this one's pass") from error
                batch = trainer._prepare_inputs(batch)
                with trainer.compute_loss_context_manager():
                    out = model(**batch)
                if counts:
                    total += torch.tensor([cross_entropy_sum(out.logits, batch["label_ids"]).double(), len(batch["label_ids"])], device=args.device)
        finally:
            model.train(training)
        if not self.listed:
            trainer.record_skips(skips, 0)
            self.listed = True
        loss, tokens = trainer.accelerator.reduce(total).tolist()
        if not tokens:
            raise DataError(f"no sample of eval_shards can be used, for instance: {skips[0].message if skips else 'another process lists why'}")
        return loss / tokens


def film_divisions(dataset: ShardDataset) -> list[str]:
    """Hashes of the divisions of films that training data were packed with, one per folder of films; empty for other data.

    Raises:
        ConfigError: a folder holds the films that the division keeps for tests.
    """
    found: dict[str, None] = {}
    for number, folder in enumerate(dataset.paths):
        source = _source(dataset, int(np.argmax(dataset.folder_of == number)))
        name = source.get("split_hash")
        if source.get("part") == TEST:
            raise ConfigError(f"shards={str(folder)!r} holds the films of the test part (split hash {name}): train on the others")
        if name:
            found[str(name)] = None
    return list(found)


def check_held_out(train: ShardDataset, held_out: ShardDataset) -> None:
    """What chooses a checkpoint may neither train nor be tested on. Reads what each medium lists, not its frames.

    Raises:
        ConfigError: a folder of the test split, or media (films, as far as they are named) that are on both sides.
    """
    tests = [str(path) for path, manifest in zip(held_out.paths, held_out.manifests, strict=True) if manifest["split"].lower().startswith(TEST)]
    if tests:
        raise ConfigError(f"eval_shards={tests} are of the split {TEST!r}: what chooses the checkpoint is no test any more; pack validation media, "
                          "for films `--split validation --set validation=1`")
    both = sorted(_media(train) & _media(held_out))
    if both:
        more = f" and {len(both) - NAMED} more" if len(both) > NAMED else ""
        raise ConfigError(f"{len(both)} films or media of eval_shards also train: {', '.join(both[:NAMED])}{more}; pack them by parts that do not "
                          "overlap")


def _media(dataset: ShardDataset) -> set[str]:
    sources = (_source(dataset, row) for row in dataset.groups(max_turns=len(dataset)).first.tolist())
    return {str(source.get("film") or source.get(MEDIUM)) for source in sources if source}


def _source(dataset: ShardDataset, row: int) -> dict[str, Any]:
    """Where a medium comes from, and its id; empty for one that cannot be read, which takes no part in training either."""
    try:
        medium = dataset.sample(row).medium
    except SampleError:
        return {}
    return {MEDIUM: medium.medium_id, **medium.source}
