"""SAM 2 prompted by embeddings: the reference's outputs, batching over objects and videos, memory that does not grow, names of weights."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sam2.modeling.position_encoding import PositionEmbeddingRandom

from sam2_ext import MaskOutput, build_sam2, cut_rope_gradients, load_sam2_checkpoint, load_sam2_config, reset_rope_tables
from sam2_ext.build import to_sam2_name, to_unipixel_name

ZEROS = torch.zeros(2, dtype=torch.long)


@pytest.fixture(scope="module")
def fixture(shared_data) -> Path:
    return shared_data / "fixtures" / "unipixel_tiny"


@pytest.fixture(scope="module")
def sam2(fixture):
    model = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=128).eval()
    load_sam2_checkpoint(model, fixture / "sam2_tiny.pt")
    full = load_file(fixture / "full" / "model.safetensors")
    model.load_state_dict({to_sam2_name(name.removeprefix("sam2.")): t for name, t in full.items() if name.startswith("sam2.")})
    reset_rope_tables(model)
    return model


@pytest.fixture(scope="module")
def recorded(fixture):
    """(frames (10, 3, 128, 128), tensors of the case with two objects on ten frames)."""
    cases = fixture / "cases"
    return load_file(cases / "common.safetensors")["out.frames"], load_file(cases / "infer_prop.safetensors")


@torch.no_grad()
def run(sam2, frames, tokens, objects=ZEROS, num_frames=None, **options) -> MaskOutput:
    return MaskOutput(*sam2(frames, tokens, objects[:len(tokens)], num_frames or len(frames), **options))


def test_masks_and_scores_of_the_reference(sam2, recorded):
    frames, case = recorded
    out = run(sam2, frames, case["out.seg_tokens"], mask_absent=True)
    assert out.multimasks.shape == (10, 2, 3, 32, 32) and out.masks.shape == (10, 2, 32, 32)
    visible = case["out.object_score_logits"].T > 0
    torch.testing.assert_close(out.scores, case["out.object_score_logits"].T, atol=2e-3, rtol=0)
    torch.testing.assert_close(out.ious, case["out.ious"].transpose(0, 1), atol=2e-3, rtol=0)
    torch.testing.assert_close(out.masks[visible], case["out.low_res_masks"].transpose(0, 1)[visible], atol=5e-3, rtol=0)
    assert visible.any() and not visible.all()
    full = F.interpolate(out.masks, size=(90, 120), mode="bilinear", align_corners=False).transpose(0, 1)
    shown = case["out.mask_logits"] > -1000
    assert (full - case["out.mask_logits"])[shown].abs().max() <= 5e-3
    assert ((full > 0) == case["out.masks"].bool()).all()


def test_a_single_frame_of_the_reference(sam2, fixture, recorded):
    case = load_file(fixture / "cases" / "infer_image.safetensors")
    out = run(sam2, recorded[0][:1], case["out.seg_tokens"], mask_absent=True)
    torch.testing.assert_close(out.scores, case["out.object_score_logits"].T, atol=2e-3, rtol=0)
    full = F.interpolate(out.masks, size=(90, 120), mode="bilinear", align_corners=False).transpose(0, 1)
    assert ((full > 0) == case["out.masks"].bool()).all()


@pytest.mark.parametrize(("case", "prompting"), [("train_prop", "first"), ("train_batch", "independent")])
def test_training_outputs_of_the_reference(sam2, fixture, recorded, case, prompting):
    expected = load_file(fixture / "cases" / f"{case}.safetensors")
    out = run(sam2, recorded[0][:4], expected["out.s0.seg_tokens"], prompting=prompting)
    torch.testing.assert_close(out.multimasks, expected["out.s0.multimasks"].reshape(4, 2, 3, 32, 32), atol=5e-3, rtol=0)
    torch.testing.assert_close(out.scores, expected["out.s0.scores"].reshape(4, 2), atol=2e-3, rtol=0)
    assert out.multimasks.min() > -1000, "absent objects keep their logits in training"


@pytest.mark.parametrize("prompting", ["first", "every", "independent"])
def test_objects_and_videos_do_not_see_each_other(sam2, recorded, prompting):
    """Three objects in two videos of five frames at once equal each object alone."""
    frames, case = recorded
    tokens = torch.cat([case["out.seg_tokens"], case["out.seg_tokens"][:1] * 0.5])
    together = run(sam2, frames, tokens, torch.tensor([0, 1, 1]), 5, prompting=prompting)
    for o, video in enumerate((0, 1, 1)):
        alone = run(sam2, frames[5 * video:5 * video + 5], tokens[o:o + 1], prompting=prompting)
        torch.testing.assert_close(together.multimasks[:, o:o + 1], alone.multimasks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.scores[:, o:o + 1], alone.scores, atol=1e-4, rtol=1e-4)


def test_prompting_decides_which_frames_see_the_tokens(sam2, recorded):
    frames, case = recorded
    outputs = {p: run(sam2, frames[:4], case["out.seg_tokens"], prompting=p) for p in ("first", "every", "independent")}
    for prompting in ("every", "independent"):
        torch.testing.assert_close(outputs[prompting].multimasks[0], outputs["first"].multimasks[0], atol=1e-4, rtol=1e-4)
        assert (outputs[prompting].multimasks[1:] - outputs["first"].multimasks[1:]).abs().max() > 0.1
    shuffled = run(sam2, frames[[0, 2, 1, 3]], case["out.seg_tokens"], prompting="independent")
    torch.testing.assert_close(shuffled.multimasks[[0, 2, 1, 3]], outputs["independent"].multimasks, atol=1e-4, rtol=1e-4)


def test_later_frames_give_gradients_to_the_tokens(sam2, recorded):
    """Through memory and pointers: the prompt stands on frame 0 only."""
    frames, case = recorded
    tokens = case["out.seg_tokens"].clone().requires_grad_()
    out = MaskOutput(*sam2(frames[:3], tokens, ZEROS, 3))
    (gradient,) = torch.autograd.grad(out.masks[2].sum() + out.scores[2].sum(), tokens)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("prompting", ["first", "every"])
@torch.no_grad()
def test_memory_stays_flat(sam2, recorded, prompting):
    """However long the clip: beside the first frame, 16 with object pointers, of which 7 with spatial memory."""
    frames, case = recorded
    features = sam2.encode(frames)
    kept, original = [], sam2._attend_to_memory

    def count(t, current, memory, num_frames):
        entries = [*memory["cond_frame_outputs"].values(), *memory["non_cond_frame_outputs"].values()]
        kept.append((len(entries), sum(e["maskmem_features"] is not None for e in entries)))
        return original(t, current, memory, num_frames)

    sam2._attend_to_memory = count
    try:
        select = torch.zeros(2, dtype=torch.long)
        long = list(sam2.track(lambda t: features.select(select + t % 10), case["out.seg_tokens"], 40, prompting, False))
    finally:
        del sam2._attend_to_memory
    assert len(long) == 40 and len(kept) == 39
    assert max(entries for entries, _ in kept) <= 1 + sam2.max_obj_ptrs_in_encoder == 17
    assert max(spatial for _, spatial in kept) <= 1 + sam2.num_maskmem == 8


@torch.no_grad()
def test_dropping_old_memory_changes_nothing(sam2, recorded, monkeypatch):
    """The frames that were dropped are not those that later ones attend to."""
    frames, case = recorded
    features, select = sam2.encode(frames), torch.zeros(2, dtype=torch.long)

    def track():
        return torch.stack([s.scores for s in sam2.track(lambda t: features.select(select + t % 10), case["out.seg_tokens"], 24, "first", False)])

    dropped, original = track(), sam2._prepare_memory_conditioned_features
    everything: dict[int, dict] = {}

    def with_everything(frame_idx, output_dict, **options):
        for t, entry in output_dict["non_cond_frame_outputs"].items():
            if entry["maskmem_features"] is not None or t not in everything:
                everything[t] = dict(entry)
        return original(frame_idx=frame_idx, output_dict={**output_dict, "non_cond_frame_outputs": everything}, **options)

    monkeypatch.setattr(sam2, "_prepare_memory_conditioned_features", with_everything)
    torch.testing.assert_close(track(), dropped, atol=0, rtol=0)


@torch.inference_mode()
def test_peak_memory_of_a_long_clip_is_that_of_a_short_one(fixture):
    """Resident memory of the process, encoding as it goes: 500 frames against 50. Kept, the memories of 450 frames would be 16 MiB."""
    small = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=64).eval()
    reset_rope_tables(small)
    tokens, select, frame = torch.ones(12, 2, 64), torch.zeros(12, dtype=torch.long), torch.zeros(1, 3, 64, 64)

    def peak(frames: int) -> float:
        for _ in small.track(lambda t: small.encode(frame).select(select), tokens, frames, "first", True):
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    short, long = peak(50), peak(500)
    assert long - short < 8, f"{short:.1f} MiB after 50 frames, {long:.1f} MiB after 500"


@torch.no_grad()
def test_offloaded_memory_gives_the_same_masks(sam2, recorded, monkeypatch):
    frames, case = recorded
    features, select, moved = sam2.encode(frames), torch.zeros(2, dtype=torch.long), []
    to = torch.Tensor.to

    def run_on(device):
        steps = sam2.track(lambda t: features.select(select + t), case["out.seg_tokens"], 4, "first", False, device)
        return torch.stack([s.multimasks for s in steps])

    plain = run_on(None)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **o: (moved.append(self.shape) if a == ("cpu",) else None, to(self, *a, **o))[1])
    offloaded = run_on("cpu")
    assert offloaded.equal(plain) and moved.count((2, 16, 8, 8)) >= 3, "three frames are remembered"


@torch.no_grad()
def test_encoding_in_chunks_changes_nothing(sam2, recorded):
    frames = recorded[0]
    for whole, parts in zip(sam2.encode(frames).maps, sam2.encode(frames, chunk=3).maps):
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 96, 160])
@torch.no_grad()
def test_any_multiple_of_32(fixture, size):
    model = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=size).eval()
    reset_rope_tables(model)
    out = run(model, torch.zeros(2, 3, size, size), torch.zeros(1, 2, 64))
    assert out.masks.shape == (2, 1, size // 4, size // 4) and out.masks.isfinite().all()


def test_state_holds_no_complex_numbers(sam2):
    """Half-precision casts and engines meet every buffer; the rotary tables are none."""
    assert not any(t.is_complex() for t in (*sam2.state_dict().values(), *sam2.buffers()))


def test_point_features_are_exact_under_autocast(sam2):
    """In bfloat16 the phase would be off by whole periods."""
    coords = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0)) * 128
    layer = sam2.sam_prompt_encoder.pe_layer
    exact = layer.forward_with_coords(coords.double().float(), (128, 128))
    with torch.autocast("cpu", torch.bfloat16):
        under = layer.forward_with_coords(coords, (128, 128))
        theirs = PositionEmbeddingRandom._pe_encoding(layer, coords / 128)
    assert under.equal(exact) and (theirs - exact).abs().max() > 0.05
    torch.testing.assert_close(exact, PositionEmbeddingRandom._pe_encoding(layer, coords / 128), atol=2e-5, rtol=0)


def test_cut_rope_gradients_changes_gradients_only(fixture, recorded):
    """What the reference's training does to the memory attention."""
    frames, case = recorded
    grads, outputs = [], []
    for cut in (False, True):
        model = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=128)
        load_sam2_checkpoint(model, fixture / "sam2_tiny.pt")
        reset_rope_tables(model)
        if cut:
            cut_rope_gradients(model)
        out = MaskOutput(*model(frames[:3], case["out.seg_tokens"], ZEROS, 3))
        (out.masks.mean() + out.scores.sum()).backward()
        grads.append({n: 0.0 if p.grad is None else float(p.grad.norm()) for n, p in model.named_parameters()})
        outputs.append(out.multimasks.detach())
    assert outputs[0].equal(outputs[1])
    names = ["memory_attention.layers.0.self_attn.q_proj.weight", "memory_attention.layers.0.self_attn.k_proj.weight", "maskmem_tpos_enc"]
    assert all(grads[0][name] > 0 and grads[1][name] == 0 for name in names)
    assert grads[1]["memory_attention.layers.0.cross_attn_image.k_proj.weight"] > 0, "keys of object pointers are not rotated"


# --- building -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["sam2.1_hiera_t", "configs/sam2.1/sam2.1_hiera_b+.yaml", "configs/sam2.1_hiera_l"])
def test_released_sizes_by_name(name):
    assert load_sam2_config(name).image_encoder.trunk.embed_dim in (96, 112, 144)


def test_unknown_size():
    with pytest.raises(ValueError, match="neither one of .*sam2.1_hiera_t"):
        load_sam2_config("sam2_hiera_xl")
    with pytest.raises(ValueError, match="image_size=80 must be a positive multiple of 32"):
        build_sam2("sam2.1_hiera_t", image_size=80)


def test_dropout_is_set_where_it_is(fixture):
    model = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=64, drop_path_rate=0.25, memory_dropout=0.125)
    rates = {m.p for m in model.memory_attention.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.125} and any(getattr(m, "drop_prob", 0) == 0.25 for m in model.image_encoder.modules())


def test_rope_tables_fit_the_image(sam2):
    from sam2.modeling.sam.transformer import RoPEAttention

    tables = [m.freqs_cis for m in sam2.modules() if isinstance(m, RoPEAttention)]
    assert tables and all(table.shape[0] == 8 * 8 and not table.is_meta for table in tables)


@pytest.mark.parametrize(("ours", "theirs"), [
    ("memory_encoder.fuser.layers.0.gamma", "memory_encoder.fuser.layers.0.weight"),
    ("sam2.memory_encoder.fuser.layers.1.gamma", "sam2.memory_encoder.fuser.layers.1.weight"),
    ("memory_encoder.fuser.layers.0.norm.weight", "memory_encoder.fuser.layers.0.norm.weight"),
    ("memory_encoder.out_proj.weight", "memory_encoder.out_proj.weight"),
])
def test_only_the_layer_scale_has_two_names(ours, theirs):
    assert to_unipixel_name(ours) == theirs and to_sam2_name(theirs) == ours


def test_checkpoint_of_another_network_is_refused(fixture, tmp_path):
    model = build_sam2(fixture / "sam2_tiny_official.yaml", image_size=64)
    torch.save({"model": {"no_mem_embed": torch.zeros(1, 1, 64)}}, tmp_path / "other.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_sam2_checkpoint(model, tmp_path / "other.pt")
