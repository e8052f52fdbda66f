"""Preference training overfits real pairs over real videos: 26 pairs of four clips, of five failure modes."""

from __future__ import annotations

import math

from data_tools.pack import main as pack
from tests.preference_samples import pair_recipe, records, train_pairs
from tests.tiny_run import Ranks
from unipixel.data.pair_groups import PairGroups
from unipixel.data.shards import ShardDataset


def test_overfits_real_pairs(tiny, shared_data, tmp_path):
    shards = tmp_path / "shards"
    assert pack(["--source", "videopasta", "--input", str(shared_data / "mini_real"), "--set", "table=preferences.jsonl", "--split", "train",
                 "--out", str(shards)]) == 0
    groups = PairGroups(ShardDataset(shards))
    assert len(groups) == 26 and not groups.left_out and len(groups.modes) == 5
    settings = pair_recipe(tiny, shards, max_steps=39, per_device_train_batch_size=4, max_tokens=4096, num_frames=2, learning_rate=1e-2,
                           max_pixels=56 * 56, dataloader_num_workers=0)
    log = records(Ranks(settings, tmp_path / "run", world=1, target=train_pairs).finish())
    assert abs(log[0]["loss"] - math.log(2)) < 1e-5
    last = log[-7:]  # one pass over all pairs
    assert sum(line["rewards/accuracies"] for line in last) / 7 >= 0.95 and sum(line["loss"] for line in last) / 7 < 0.2
