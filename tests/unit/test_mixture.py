"""Repeat factors and shares of a mixture."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.test_shards import clip
from unipixel.data.loader import Groups
from unipixel.data.mixture import Part, mixture_weights, read_mixture, read_part
from unipixel.data.shards import ShardDataset
from unipixel.data.writer import ShardWriter
from unipixel.errors import ConfigError


def test_entries():
    assert read_part("a/b") == Part("a/b") and read_part("b=2.5", "/data") == Part("/data/b", 2.5)
    assert read_part("b=10%", "s3://bucket/x") == Part("s3://bucket/x/b", share=0.1) and read_part("/abs", "root").folder == "/abs"
    for wrong in ("a=", "a=x", "a=0", "a=-1", "=3", "a=150%", "a=nan"):
        with pytest.raises(ConfigError, match="shards entry"):
            read_part(wrong)


def test_weights():
    sizes = np.array([100, 10, 50])
    assert mixture_weights([Part("a"), Part("b", 5), Part("c")], sizes).tolist() == [1, 5, 1]
    weights = mixture_weights([Part("a"), Part("b", share=0.25), Part("c")], sizes)
    assert weights[[0, 2]].tolist() == [1, 1] and weights[1] * 10 == pytest.approx(0.25 * (weights * sizes).sum())
    halves = mixture_weights([Part("a", share=0.5), Part("b", share=0.5)], sizes[:2])
    assert (halves * sizes[:2]).tolist() == pytest.approx([55, 55])
    only = mixture_weights([Part("a", share=0.2), Part("b", share=0.6)], sizes[:2]) * sizes[:2]
    assert only[1] / only[0] == pytest.approx(3)
    for parts in ([Part("a", share=0.7), Part("b", share=0.7)], [Part("a", share=1.0), Part("b")]):
        with pytest.raises(ConfigError, match="shares of the mixture come to 1[04]0 %"):
            mixture_weights(parts, sizes[:2])


def test_missing_folders_are_listed_once_and_left_out_on_request(tmp_path):
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, dataset=name, split="train") as writer:
            writer.write(*clip("c", 1))
    entries = ["a=2", "gone", "b", "lost=3"]
    with pytest.raises(ConfigError) as caught:
        read_mixture(entries, str(tmp_path))
    assert "2 of 4 folders" in str(caught.value) and "gone" in str(caught.value) and "lost" in str(caught.value)
    parts, missing = read_mixture(entries, str(tmp_path), skip_missing=True)
    assert parts == [Part(str(tmp_path / "a"), 2.0), Part(str(tmp_path / "b"))] and [m.rpartition("/")[2] for m in missing] == ["gone", "lost"]
    with pytest.raises(ConfigError, match="not packed datasets"):
        read_mixture(["gone"], str(tmp_path), skip_missing=True)
    with pytest.raises(ConfigError, match="more than once"):
        read_mixture(["a", "a=2"], str(tmp_path))

    groups = Groups(ShardDataset([part.folder for part in parts]), per_medium=1)
    found = {(s.name, s.kind): (len(s.members), s.weight) for s in groups.sources(parts)}
    assert found == {("a/train", "video"): (2, 4), ("a/train", "video_masks"): (3, 6), ("b/train", "video"): (2, 2),
                     ("b/train", "video_masks"): (3, 3)}


def test_mask_share_turns_part_of_the_groups_into_language_only_ones(tmp_path):
    with ShardWriter(tmp_path / "a", dataset="a", split="train") as writer:
        for i in range(4):
            writer.write(*clip(f"c{i}", i))
    groups = Groups(ShardDataset(tmp_path / "a"), per_medium=1, mask_share=0.25)
    assert {s.kind: len(s.members) for s in groups.sources()} == {"video": 8 + 9, "video_masks": 3}


def test_excluded_samples_are_positions_of_their_groups(tmp_path):
    with ShardWriter(tmp_path / "a", dataset="a", split="train") as writer:
        keys = [writer.write(*clip(f"c{i}", i)) for i in range(4)]
    (tmp_path / "a" / "excluded.jsonl").write_text("".join(f'{{"key": "{keys[i]}"}}\n' for i in (2, 0)))
    groups = Groups(ShardDataset(tmp_path / "a"), per_medium=2)
    for source in groups.sources():
        listed = [groups.dataset.place(groups.rows[source.members[p]][0])[2] for p in source.excluded]
        count = listed.count(keys[2])
        assert listed == [keys[2]] * count + [keys[0]] * count and count > 0
