"""Pairs as training samples: groups, tokens that count, what is left out, skipped or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.preference_samples import MODES, as_pairs, example, pair, write_pairs
from tests.tiny_run import clip, tiny_parts
from unipixel.data.collate import collate
from unipixel.data.loader import MicroBatches
from unipixel.data.pair_groups import PairGroups
from unipixel.data.pairs import PREFERENCE, PairSettings, marker_pattern, one_pair, pair_key, reply_text
from unipixel.data.plan import MicroBatch, OrderPlan
from unipixel.data.shards import ShardDataset, ShardWriter
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import Medium, PreferencePair

SPELLINGS = ("Final Answer:", "final answer:", "FINAL ANSWER:", "Final  Answer :", "**Final Answer:**", "**Final Answer**:")


@pytest.fixture(scope="module")
def parts(tiny):
    return tiny_parts(tiny, paraphrase=False, frame_sampling="uniform")


@pytest.fixture
def encoder(parts):
    return as_pairs(parts[2], PairSettings())


@pytest.fixture
def answers(parts):
    """Encoder that counts only what follows the marker."""
    return lambda **settings: as_pairs(parts[2], PairSettings(supervise="answer", **settings))


def written(folder, *pairs: PreferencePair, medium: Medium | None = None):
    """Groups over one clip with these pairs."""
    clip_medium, frames, _ = clip(0)
    with ShardWriter(folder, dataset="one", split="train") as writer:
        writer.write(medium or clip_medium, [replace(example(0), pairs=pairs)], [] if medium else frames)
    return PairGroups(ShardDataset([folder]))


def replies(encoder, groups, group: int = 0) -> tuple[str, str]:
    """Text of the supervised tokens of both sides."""
    dialogue, = encoder(groups.sample(group)).dialogues
    chosen, rejected = dialogue.label_counts
    ids = dialogue.ids[dialogue.supervised]
    return tuple(encoder.tokenizer.decode(part) for part in ids.split([chosen, rejected]))


def test_every_pair_once_per_epoch(tmp_path, encoder):
    groups = PairGroups(ShardDataset([write_pairs(tmp_path / "pairs", 3, text=True)]))
    plan = OrderPlan(groups.sources(), seed=0)
    batches = plan.batches(rank=0, world=1, micro=1, accumulation=1)
    drawn = [MicroBatches(groups, encoder)[next(batches)]["keys"][0] for _ in range(len(groups))]
    assert len(groups) == plan.epoch_size == 12 == len(set(drawn)) and groups.kinds == [PREFERENCE]
    assert {key.rsplit("_", 1)[1] for key in drawn} == {"spatial", "temporal", "frame"}
    assert not any("_q" in key for key in drawn), "examples without pairs do not train"


def test_row_reads_as_prompt_and_both_replies(tmp_path, encoder):
    groups = written(tmp_path / "one", pair("x", "spatial"))
    medium = encoder(groups.sample(0))
    dialogue, = medium.dialogues
    text = encoder.tokenizer.decode(dialogue.ids).replace("<|video_pad|>" * medium.visual_tokens, "[video]")
    assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>[video]<|vision_end|>"
                    "What does the red box do?<|im_end|>\n<|im_start|>assistant\nThe red box is above the blue one.<|im_end|>"
                    "The blue box is above the red one.<|im_end|>")
    assert replies(encoder, groups) == ("The red box is above the blue one.<|im_end|>", "The blue box is above the red one.<|im_end|>")
    assert medium.frames is None, "SAM 2's frames are not prepared"


def test_batch_of_pairs(tmp_path, encoder):
    groups = PairGroups(ShardDataset([write_pairs(tmp_path / "pairs", 1)]))
    batch = collate([encoder(groups.sample(i)) for i in range(3)], PREFERENCE)
    assert batch["modes"] == MODES and len(batch["branches"]) == 3 and batch["whole_replies"] == 0
    assert batch["segment_lengths"] == tuple(map(sum, batch["branches"]))
    assert len(batch["label_rows"]) == len(batch["label_ids"]) == sum(map(sum, batch["label_counts"]))
    starts = np.cumsum([0, *batch["segment_lengths"]])
    for (prompt, chosen, _), (first, second), start, offset in zip(
            batch["branches"], batch["label_counts"], starts, np.cumsum([0, *map(sum, batch["label_counts"])])):
        rows = batch["label_rows"][offset:offset + first + second] - start
        assert rows[0] == rows[first] == prompt - 1 and rows[1] == prompt and rows[first + 1] == prompt + chosen


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_t4_answer_only(tmp_path, answers, spelling):
    sides = f"Reasoning: it is on top.\n{spelling} up", f"Reasoning: no.\n{spelling} down"
    groups = written(tmp_path / "one", PreferencePair("p", *sides, "correctness"))
    assert replies(answers(), groups) == (" up<|im_end|>", " down<|im_end|>")


def test_marker_is_a_whole_word():
    assert not marker_pattern("Final Answer:").search("The semifinal answer: up") and not marker_pattern("Final Answer:").search("Final Answers up")
    assert marker_pattern("Answer").search("the answer: up")


def test_t4_missing_marker(tmp_path, answers):
    groups = written(tmp_path / "one", PreferencePair("p", "Up.", "Final Answer: down", "correctness"))
    with pytest.raises(SampleError, match="does not hold 'Final Answer:'.*marker_missing: whole") as error:
        answers()(groups.sample(0))
    assert error.value.reason == "marker_missing"
    whole = answers(marker_missing="whole")
    assert replies(whole, groups) == ("Up.<|im_end|>", " down<|im_end|>")
    assert collate([whole(groups.sample(0))], PREFERENCE)["whole_replies"] == 1


def test_skipped_pair_is_listed_and_replaced(tmp_path, answers):
    good = PreferencePair("good", "Final Answer: up", "Final Answer: down", "correctness")
    groups = written(tmp_path / "one", PreferencePair("bad", "Up.", "Down.", "correctness"), good)
    batch = MicroBatches(groups, answers())[MicroBatch(0, PREFERENCE, ((0, 0),), {})]
    assert [skip.reason for skip in batch["skips"]] == ["marker_missing"] * len(batch["skips"]) and batch["skips"]
    assert batch["keys"] == ["one/one-train-clip0/clip0_p/good"]


def test_evidence_becomes_words(tmp_path, encoder):
    by_time = PreferencePair("t", "It moves.", "It moves.", "temporal", chosen_segments=((0.5, 1.0),), rejected_segments=((2.0, 2.5),))
    by_object = PreferencePair("o", "It moves.", "It moves.", "evidence", chosen_objects=("red",), rejected_objects=("blue",))
    groups = written(tmp_path / "one", by_time, by_object)
    assert replies(encoder, groups) == tuple(f"It moves. Temporal Evidence: [[{times}]].<|im_end|>" for times in ("0.5, 1.0", "2.0, 2.5"))
    assert len(groups) == 1 and [(skip.reason, skip.key) for skip in groups.left_out] == [("same_words", "one-train-clip0")]
    assert reply_text(by_object, "rejected") == "It moves. Spatial Evidence: <|seg|>."


def test_nothing_to_train_on(tmp_path, tiny):
    with pytest.raises(DataError, match="no preference pair that can train"):
        PairGroups(ShardDataset([tiny.clips]))
    with pytest.raises(DataError, match=r"no preference pair that can train \(1 left out\)"):
        written(tmp_path / "one", PreferencePair("o", "It.", "It.", "evidence", chosen_objects=("red",), rejected_objects=("blue",)))


@pytest.mark.parametrize(("sides", "reason"), [(("Yes.", "Yes. "), "equal_sides"), (("Yes.", " "), "empty_side"), (("", "No."), "empty_side")])
def test_bad_pairs_cannot_be_made(sides, reason):
    with pytest.raises(SampleError) as error:
        PreferencePair("p", *sides, "other")
    assert error.value.reason == reason


def test_missing_frames_are_met_in_training_not_hidden(tmp_path, encoder):
    """A damaged bundle stands for one pair; a substitute takes its place and the skip is listed."""
    folder = write_pairs(tmp_path / "pairs", 2)
    shard = next(folder.glob("shard-*.tar"))
    data = bytearray(shard.read_bytes())
    groups = PairGroups(ShardDataset([folder]))
    offset = int(groups.dataset.rows["offset"][0].as_py())
    data[offset + 700] ^= 255
    shard.write_bytes(bytes(data))
    damaged = PairGroups(ShardDataset([folder]))
    assert len(groups) == 6 and len(damaged) == 4
    batch = MicroBatches(damaged, encoder)[MicroBatch(0, PREFERENCE, ((0, 0),), {})]
    assert {skip.reason for skip in batch["skips"]} == {"checksum"} and "clip1" in batch["keys"][0]


def test_too_long_pair_is_skipped(tmp_path, encoder):
    encoder.max_tokens = 40
    with pytest.raises(SampleError, match="max_tokens=40"):
        encoder(written(tmp_path / "one", pair("x", "spatial")).sample(0))


@pytest.mark.parametrize("wrong", [{"supervise": "answers"}, {"marker_missing": "all"}, {"answer_marker": ": "}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PairSettings(**wrong)


def test_one_pair_of_an_example(tmp_path):
    groups = written(tmp_path / "one", pair("x", "spatial"), pair("x", "temporal"))
    whole = groups.dataset.sample(0)
    only = one_pair(whole, 1)
    assert [p.pair_id for p in only.examples[0].pairs] == ["x_temporal"]
    assert pair_key(only, only.examples[0], only.examples[0].pairs[0]) == "one/one-train-clip0/clip0_p/x_temporal"
