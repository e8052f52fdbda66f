"""``unipixel pairs evidence``: what is moved or exchanged, how far it overlaps with the truth, and what is listed because it cannot be made."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_tools.preference.evidence import EvidencePairSettings, mask_overlap, moved_segments, swapped_segments
from launch.cli import main
from tests.tiny_run import clip, questions, write_clips
from unipixel.data.pair_groups import PairGroups
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.errors import EXIT_USER_ERROR, ConfigError
from unipixel.infer.predictions import Prediction, write_predictions
from unipixel.metrics import temporal_iou


def settings(**changes) -> EvidencePairSettings:
    return EvidencePairSettings(**{"shards": ["x"], "out": "y", "time_step_s": 0.5, **changes})


def test_segments_move_as_a_whole_and_stay_inside():
    truth = ((1.0, 2.0), (3.0, 3.5))
    found = moved_segments(truth, 6.0, settings(max_tiou=0.3))
    assert found and truth not in found
    for moved in found:
        assert [round(b - a, 6) for a, b in moved] == [1.0, 0.5] and moved[0][0] >= 0 and moved[-1][1] <= 6.0
        assert temporal_iou(moved, truth) <= 0.3
    assert found == sorted(found) and found[0] == ((0.0, 1.0), (2.0, 2.5))


def test_overlap_is_kept_between_its_bounds():
    truth = ((2.0, 4.0),)
    values = [temporal_iou(moved, truth) for moved in moved_segments(truth, 8.0, settings(min_tiou=0.2, max_tiou=0.6))]
    assert sorted(set(values)) == pytest.approx([1 / 3, 0.6])
    assert moved_segments(((0.0, 4.0),), 4.0, settings()) == []


def test_swapped_segments_are_as_often_chosen_as_rejected():
    """Neither lengths nor places tell the sides apart, long segments included."""
    rng = np.random.default_rng(0)
    pool = [((float(a), float(b)),) for a in range(4) for b in range(a + 1, 5) for _ in range(30)]
    chosen, rejected = Counter(), Counter()
    for segments in pool:
        for other in swapped_segments(segments, 4.0, settings(max_tiou=0.7), pool, rng):
            assert temporal_iou(other, segments) <= 0.7 and other != segments
            chosen[segments] += 1
            rejected[other] += 1
    lengths = [sum(n * (s[0][1] - s[0][0]) for s, n in side.items()) / sum(side.values()) for side in (chosen, rejected)]
    assert sum(chosen.values()) == len(pool) and abs(lengths[0] - lengths[1]) < 0.25
    assert swapped_segments(((0.0, 1.0),), 4.0, settings(), [((3.0, 9.0),)], rng) == [], "a segment behind the end of this clip"


def test_mask_overlap():
    """Frames where both are annotated: the blue box on even ones, absent on the last two; the boxes never touch."""
    medium, _, masks = clip(0)
    overlap, seen = mask_overlap(medium, ("red",), ("blue",))
    assert overlap == 0 and seen == int(masks["blue"].any((1, 2))[::2].sum())
    twin = replace(medium.objects["blue"], track=medium.objects["red"].track)
    assert mask_overlap(replace(medium, objects={**medium.objects, "blue": twin}), ("red",), ("blue",)) == (1.0, len(masks["red"]))


def test_pairs_of_a_dataset(tmp_path, capsys):
    write_clips(tmp_path / "clips", 3)
    flags = ["pairs", "evidence", "--shards", str(tmp_path / "clips"), "--out", str(tmp_path / "pairs"), "--max_tiou", "0.3", "--modes", "moved",
             "evidence"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    data = ShardDataset(tmp_path / "pairs")
    made = [p for row in range(len(data)) for p in data.sample(row).examples[0].pairs]
    assert {p.failure_mode for p in made} == {"temporal", "evidence"} and f"{len(made)} pairs" in printed
    for pair in made:
        assert pair.chosen == pair.rejected == "Answer: It moves right."
        if pair.failure_mode == "temporal":
            overlap = temporal_iou(pair.rejected_segments, pair.chosen_segments)
            assert overlap <= 0.3 and pair.origin["tiou"] == pytest.approx(overlap, abs=1e-4)
            assert pair.rejected_objects == pair.chosen_objects == ("red",)
        else:
            assert pair.rejected_objects == ("blue",) and pair.origin["mask_iou"] == 0 and pair.rejected_segments == pair.chosen_segments
    reasons = {json.loads(line)["reason"] for line in (tmp_path / "pairs" / "skipped.jsonl").read_text().splitlines()}
    assert reasons == {"no_answer"}, "requests and dialogues have none"
    groups = PairGroups(data, masks=True)
    assert len(groups) == len(made) and set(groups.kinds) == {"preference", "preference_video_only_masks"}
    again = flags[:5] + [str(tmp_path / "again")] + flags[6:]
    assert main(again) == 0 and ShardDataset(tmp_path / "again").fingerprint == data.fingerprint


def test_rejects_what_a_model_says_itself(tmp_path, capsys):
    """Its segments where they are wrong enough; right ones, none and failed predictions are listed."""
    write_clips(tmp_path / "clips", 4)
    said = {0: ((2.0, 2.5),), 1: ((0.5, 1.5),), 2: None}  # of clip 1 they are the true ones; nothing is known of clip 3
    write_predictions(tmp_path / "said.jsonl", [Prediction(f"clip{i}_q", f"clip{i}", "ok" if s else "no_reply", segments=s) for i, s in said.items()])
    flags = ["pairs", "evidence", "--shards", str(tmp_path / "clips"), "--out", str(tmp_path / "pairs"), "--modes", "predicted"]
    assert main([*flags, "--predictions", str(tmp_path / "said.jsonl")]) == 0
    data = ShardDataset(tmp_path / "pairs")
    (pair,) = data.sample(0).examples[0].pairs
    assert len(data) == 1 and pair.failure_mode == "temporal" and pair.origin["mode"] == "predicted"
    assert pair.rejected_segments == ((2.0, 2.5),) and pair.chosen_segments == ((0.5, 1.0),) and pair.origin["tiou"] == 0
    printed = capsys.readouterr().out
    assert "tiou_outside" in printed and "no_prediction" in printed
    assert main(flags) == EXIT_USER_ERROR and "needs the file" in capsys.readouterr().err


def test_what_cannot_be_made_is_listed(tmp_path, capsys):
    medium, frames, _ = clip(0)
    alone = replace(medium, objects={"red": medium.objects["red"]})
    with ShardWriter(tmp_path / "clips", dataset="d", split="s") as writer:
        writer.write(alone, [replace(questions(0)[0], segments=((0.0, alone.duration_s),))], frames)
    flags = ["pairs", "evidence", "--shards", str(tmp_path / "clips"), "--out", str(tmp_path / "pairs"), "--modes", "moved", "swapped", "evidence"]
    assert main(flags) == EXIT_USER_ERROR and "would be written as 'train'" in capsys.readouterr().err  # a part that is not for training
    assert main([*flags, "--split", "s"]) == EXIT_USER_ERROR
    printed = capsys.readouterr()
    assert "no_room" in printed.out and "no_other_segments" in printed.out
    assert "no_other_object" in printed.out and "no pair could be made" in printed.err
    assert not (tmp_path / "pairs" / "manifest.json").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"modes": ["where"]}, "where"), ({"min_tiou": 0.6}, "in order"), ({"max_mask_iou": 1.0}, "max_mask_iou"), ({"per_mode": 0}, "per_mode=0"),
    ({"shards": []}, "shards is empty")])
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
