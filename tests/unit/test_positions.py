"""Rotary positions: the rule of transformers 4.53 by hand and against its recorded outputs; against the installed one where both agree."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from unipixel.data.positions import VisualBlock, mrope_positions, reference_temporal_indices, temporal_indices

VIDEO = 307


def test_text_counts_up():
    assert mrope_positions(4, []).tolist() == [[0, 1, 2, 3]] * 3


def test_a_wide_block_by_hand():
    """2 tokens of text, cells at 0 and 1 of 1 x 3 tokens, 2 tokens of text: the columns reach furthest."""
    positions = mrope_positions(10, [VisualBlock(2, (2, 1, 3), [0, 1])])
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]]


def test_a_long_block_by_hand():
    """Time reaches further than the picture: text resumes after the last cell's time, not after the picture's sides."""
    positions = mrope_positions(6, [VisualBlock(1, (3, 1, 1), [0, 4, 8])])
    assert positions.tolist() == [[0, 1, 5, 9, 10, 11], [0, 1, 1, 1, 10, 11], [0, 1, 1, 1, 10, 11]]


def test_two_blocks_and_no_text_between():
    positions = mrope_positions(4, [VisualBlock(0, (1, 1, 2), [0]), VisualBlock(2, (1, 2, 1), [0])])
    assert positions.tolist() == [[0, 0, 2, 2], [0, 0, 2, 3], [0, 1, 2, 2]]


def test_indices_from_true_times():
    assert temporal_indices([3.0, 4.0, 4.4, 6.25]) == [0, 2, 2, 6]
    assert temporal_indices([0.0, 0.3], tokens_per_second=10) == [0, 3]
    assert temporal_indices([2.5]) == [0]


def test_indices_of_the_reference_cut_the_seconds_first():
    assert reference_temporal_indices(3, 1.0) == [0, 2, 4]
    assert reference_temporal_indices(3, 1.75) == [0, 2, 4]
    assert reference_temporal_indices(3, 0.5) == [0, 0, 0]


@pytest.mark.parametrize("case", ["fwd_video", "fwd_video_spg_frac"])
def test_recorded_positions_of_transformers_4_53(shared_data, case):
    folder = shared_data / "fixtures" / "unipixel_tiny" / "cases"
    tensors = load_file(folder / f"{case}.safetensors")
    common = load_file(folder / "common.safetensors")
    ids = tensors["in.input_ids"][0]
    t, h, w = tensors.get("in.video_grid_thw", common["out.video_grid_thw"])[0].tolist()
    seconds = float(tensors.get("in.second_per_grid_ts", common["out.second_per_grid_ts"])[0])
    start = int((ids == VIDEO).nonzero()[0])
    positions = mrope_positions(len(ids), [VisualBlock(start, (t, h // 2, w // 2), reference_temporal_indices(t, seconds))])
    assert positions.equal(tensors["out.position_ids"][:, 0])


@pytest.mark.parametrize("grid", [(1, 4, 6), (2, 8, 8), (3, 10, 14)])
def test_installed_transformers_where_both_agree(grid):
    """The picture is longer than the clip (in tokens), so that resuming after its sides is resuming after everything."""
    t, h, w = grid[0], grid[1] // 2, grid[2] // 2
    assert 2 * (t - 1) < max(h, w)
    config = Qwen2_5_VLConfig(vision_config={"tokens_per_second": 2, "depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32},
                              text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
                                           "intermediate_size": 32, "vocab_size": 400,
                                           "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
                              video_token_id=VIDEO)
    with torch.device("meta"):
        model = Qwen2_5_VLModel(config)
    ids = torch.tensor([[5] * 7 + [VIDEO] * (t * h * w) + [6] * 9])
    theirs, _ = model.get_rope_index(ids, mm_token_type_ids=2 * (ids == VIDEO).int(), video_grid_thw=torch.tensor([grid]),
                                     second_per_grid_ts=torch.tensor([1.0]))
    mine = mrope_positions(ids.shape[1], [VisualBlock(7, (t, h, w), reference_temporal_indices(t))])
    assert mine.equal(theirs[:, 0].long())
