"""The whole model on the reference's weights: logits, prompt embeddings, losses and gradients of its recorded training step."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from sam2_ext import build_sam2, reset_rope_tables
from sam2_ext.build import to_sam2_name, to_unipixel_name
from unipixel.data.positions import VisualBlock, mrope_positions, reference_temporal_indices
from unipixel.model import attention
from unipixel.model.grounded import GroundedVLM
from unipixel.objectives.language import cross_entropy_sum
from unipixel.objectives.masks import MaskLossSettings, mask_loss_sums

VIDEO, SEG = 307, 309


@pytest.fixture(scope="module")
def fixture(shared_data):
    return shared_data / "fixtures" / "unipixel_tiny"


@pytest.fixture(scope="module")
def model(fixture) -> GroundedVLM:
    attn = {"": "sdpa", "text_config": attention.NAME, "vision_config": "sdpa"}
    backbone = Qwen2_5_VLForConditionalGeneration.from_pretrained(fixture / "base", attn_implementation=attn)
    model = GroundedVLM(backbone, build_sam2(fixture / "sam2_tiny_official.yaml", image_size=128))
    own, used = dict(model.named_parameters()) | dict(model.named_buffers()), set()
    for name, tensor in load_file(fixture / "full" / "model.safetensors").items():
        mine = f"backbone.model.{name}" if name.startswith("visual.") else name
        mine = f"backbone.model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else mine
        mine = to_sam2_name(mine)
        if mine in own:
            own[mine].data.copy_(tensor)
            used.add(mine)
    missing = [name for name in own if name not in used and "rotary" not in name and "inv_freq" not in name]
    assert missing == [], "every weight of this model has a counterpart in the released layout"
    reset_rope_tables(model.sam2)
    model.normalizer = SimpleNamespace(patches=lambda x: x, frames=lambda x: x)  # the recorded inputs are normalised already
    return model.train()  # all dropout rates of the fixture are 0


def recorded_batch(fixture, case: dict) -> dict:
    common = load_file(fixture / "cases" / "common.safetensors")
    ids, labels = case["in.input_ids"][0], case["in.labels"][0]
    t, h, w = common["out.video_grid_thw"][0].tolist()
    visual = (ids == VIDEO).nonzero().flatten()
    seg = (ids == SEG).nonzero().flatten()
    positions = mrope_positions(len(ids), [VisualBlock(int(visual[0]), (t, h // 2, w // 2), reference_temporal_indices(t))])
    labelled = (labels != -100).nonzero().flatten()
    labelled = labelled[labelled > 0]
    frames = case["in.frames"] if "in.frames" in case else common["out.frames"][:4]
    return {"input_ids": ids[None], "position_ids": torch.cat([torch.arange(len(ids))[None], positions])[:, None],
            "segment_lengths": (len(ids),), "label_rows": labelled - 1, "label_ids": labels[labelled],
            "visual_rows": visual, "visual_index": torch.arange(len(visual)), "patches": common["out.pixel_values_videos"],
            "grids": common["out.video_grid_thw"], "sam_frames": frames, "object_rows": seg - 1, "object_video": torch.zeros_like(seg),
            "mask_targets": case["in.label_mask"].bool(), "mask_valid": torch.ones(4, len(seg), dtype=torch.bool)}


@pytest.mark.parametrize(("name", "prompting", "objects"), [("train_prop", "first", 2), ("train_batch", "independent", 8)])
def test_recorded_training_step(model, fixture, name, prompting, objects):
    """The reference adds the frames' losses up, each averaged over its objects, and divides by the frames (1 in batch mode).

    Gradients of the propagation case are compared outside SAM 2: the reference applies rotary embeddings there without gradient.
    """
    case = load_file(fixture / "cases" / f"{name}.safetensors")
    batch = recorded_batch(fixture, case)
    model.prompting = prompting
    model.zero_grad()
    out = model(**batch)
    torch.testing.assert_close(out.logits, case["out.logits"][0, batch["label_rows"]], atol=3e-3, rtol=0)
    torch.testing.assert_close(out.masks.multimasks, case["out.s0.multimasks"].reshape(4, 2, 3, 32, 32), atol=5e-3, rtol=0)

    language = cross_entropy_sum(out.logits, batch["label_ids"]) / len(batch["label_ids"])
    sums = mask_loss_sums(out.masks, batch["mask_targets"], batch["mask_valid"], MaskLossSettings())
    masks = sum(sums.values()) / (objects * (4 if name == "train_prop" else 1))
    assert language.item() == pytest.approx(case["out.loss_lm"].item(), rel=1e-3)
    assert masks.item() == pytest.approx(case["out.loss_seg_total"].item(), rel=1e-3)
    assert (language + masks).item() == pytest.approx(case["out.loss"].item(), rel=1e-3)

    if name == "train_prop":
        return
    (language + masks).backward()
    norms = json.loads((fixture / "cases" / f"{name}.grad_norms.json").read_text())
    compared = 0
    for mine, parameter in model.named_parameters():
        theirs = to_unipixel_name(mine).removeprefix("backbone.")
        expected = norms[theirs]
        if expected is None or parameter.grad is None:
            assert not expected and (parameter.grad is None or parameter.grad.abs().max() == 0), theirs
            continue
        assert float(parameter.grad.norm()) == pytest.approx(expected, rel=2e-2, abs=1e-5), theirs
        compared += 1
    assert compared > 250


def test_recorded_inference(model, fixture):
    """Prompt embeddings of both ``<|seg|>`` from the row before each."""
    case, common = (load_file(fixture / "cases" / f"{name}.safetensors") for name in ("infer_prop", "common"))
    ids = case["in.input_ids"][0]
    batch = recorded_batch(fixture, {"in.input_ids": ids[None], "in.labels": ids[None].clone(), "in.label_mask": torch.zeros(4, 2, 1, 1),
                                     "in.frames": common["out.frames"]})
    with torch.no_grad():
        after, before = model.hidden_states(model.embed(batch), batch["position_ids"], batch["segment_lengths"])
        torch.testing.assert_close(model.core.lm_head(after), case["out.logits"][0], atol=3e-3, rtol=0)
        torch.testing.assert_close(model.seg_tokens(before[batch["object_rows"]]), case["out.seg_tokens"], atol=2e-4, rtol=1e-4)
