"""Two implementations of SAM 2, one set of random weights: ``sam2_ext`` on Meta's package against transformers' ``Sam2VideoModel``.

The prompt embeddings are appended to transformers' sparse prompts on the first frame; its unconditional cast of memories to bfloat16 is
undone, because it alone would hide every other difference, and so is the rounding of a prompted frame's mask to 0 and 1, which is for
clicks.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2_ext import MaskOutput, build_sam2, load_sam2_config, reset_rope_tables

SIZE, WIDTH, TRUNK, FRAMES = 128, 128, 16, 5
GRID = SIZE // 16
RENAMED = (
    ("image_encoder.trunk.", "vision_encoder.backbone."), ("image_encoder.neck.", "vision_encoder.neck."), (r"(convs\.\d)\.conv\.", r"\1."),
    ("patch_embed.proj.", "patch_embed.projection."), ("sam_mask_decoder.", "mask_decoder."), ("sam_prompt_encoder.", "prompt_encoder."),
    (r"memory_encoder\.out_proj\.", "memory_encoder.projection."), ("pix_feat_proj", "feature_projection"), (r"\bout_proj\.", "o_proj."),
    (r"fuser\.layers\.(\d)\.gamma", r"memory_fuser.layers.\1.scale"), (r"encoder\.fuser\.", "encoder.memory_fuser."), ("dwconv", "depthwise_conv"),
    (r"pwconv(\d)", r"pointwise_conv\1"), ("norm_final_attn", "layer_norm_final_attn"), (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."), (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"(mlps\.\d|prediction_head|score_head|obj_ptr_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|prediction_head|score_head|obj_ptr_proj)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|prediction_head|score_head|obj_ptr_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"output_upscaling\.0", "upscale_conv1"), (r"output_upscaling\.1", "upscale_layer_norm"), (r"output_upscaling\.3", "upscale_conv2"),
    (r"mask_downscaling\.0", "mask_embed.conv1"), (r"mask_downscaling\.1", "mask_embed.layer_norm1"), (r"mask_downscaling\.3", "mask_embed.conv2"),
    (r"mask_downscaling\.4", "mask_embed.layer_norm2"), (r"mask_downscaling\.6", "mask_embed.conv3"),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"mask_downsampler\.encoder\.(\d+)\.", lambda m: f"mask_downsampler.layers.{int(m[1]) // 3}.{'layer_norm' if int(m[1]) % 3 else 'conv'}."),
    ("obj_ptr_proj", "object_pointer_proj"), ("no_obj_ptr", "no_object_pointer"), ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"), ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"), ("no_mem_pos_enc", "no_memory_positional_encoding"),
)


def network(path):
    """The released tiny network at toy widths, with memories as wide as transformers has them hard-coded (64)."""
    config = load_sam2_config("sam2.1_hiera_t")
    config.image_encoder.trunk.update({"embed_dim": TRUNK, "num_heads": 1, "stages": [1, 2, 2, 1], "global_att_blocks": [4],
                                       "window_spec": [8, 4, 14, 7], "drop_path_rate": 0.0})
    config.image_encoder.neck.update({"d_model": WIDTH, "backbone_channel_list": [8 * TRUNK, 4 * TRUNK, 2 * TRUNK, TRUNK]})
    config.image_encoder.neck.position_encoding.num_pos_feats = WIDTH
    layer = config.memory_attention.layer
    config.memory_attention.update({"d_model": WIDTH, "num_layers": 2})
    layer.update({"d_model": WIDTH, "dim_feedforward": 128, "dropout": 0.0})
    layer.self_attention.update({"embedding_dim": WIDTH, "dropout": 0.0})
    layer.cross_attention.update({"embedding_dim": WIDTH, "kv_in_dim": 64, "dropout": 0.0})
    config.memory_encoder.update({"out_dim": 64, "in_dim": WIDTH})
    config.memory_encoder.position_encoding.num_pos_feats = 64
    config.memory_encoder.mask_downsampler.embed_dim = WIDTH
    config.memory_encoder.fuser.layer.dim = WIDTH
    OmegaConf.save(OmegaConf.create({"model": config}), path)
    return path


def transformers_config() -> Sam2VideoConfig:
    widths, heads = [TRUNK * 2**i for i in range(4)], [2**i for i in range(4)]
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": TRUNK, "num_attention_heads": 1, "image_size": [SIZE, SIZE],
                "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": widths, "num_attention_heads_per_stage": heads,
                "window_size_per_stage": [8, 4, 14, 7], "global_attention_blocks": [4], "window_positional_embedding_background_size": [7, 7]}
    vision = {"backbone_config": backbone, "backbone_channel_list": widths[::-1], "fpn_hidden_size": WIDTH, "fpn_top_down_levels": [2, 3],
              "backbone_feature_sizes": [[4 * GRID, 4 * GRID], [2 * GRID, 2 * GRID], [GRID, GRID]]}
    return Sam2VideoConfig(
        vision_config=vision, prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIZE}, image_size=SIZE,
        mask_decoder_config={"hidden_size": WIDTH, "iou_head_hidden_dim": 256, "dynamic_multimask_via_stability": False},
        memory_attention_hidden_size=WIDTH, memory_attention_num_layers=2, memory_attention_feed_forward_hidden_size=128,
        memory_attention_rope_feat_sizes=[GRID, GRID], memory_attention_dropout=0.0, memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=64, mask_downsampler_embed_dim=WIDTH, memory_fuser_embed_dim=WIDTH, memory_fuser_intermediate_dim=4 * WIDTH,
        enable_occlusion_spatial_embedding=True, enable_temporal_pos_encoding_for_object_pointers=True, multimask_output_for_tracking=True)


def transformers_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(ours, transformers') with the same random weights, none of them at a trivial value."""
    torch.manual_seed(0)
    ours = build_sam2(network(tmp_path_factory.mktemp("sam2") / "sam2.yaml"), image_size=SIZE).eval()
    for name, tensor in ours.named_parameters():
        tensor.data = 1 + 0.1 * torch.randn_like(tensor) if "norm" in name and name.endswith("weight") else tensor + 0.05 * torch.randn_like(tensor)
    ours.no_mem_embed.data.normal_(0, 0.1)
    reset_rope_tables(ours)
    state = ours.state_dict()
    matrix = state.pop("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
    points = torch.cat([state.pop(f"sam_prompt_encoder.point_embeddings.{i}.weight") for i in range(4)])
    renamed = {transformers_name(name): tensor for name, tensor in state.items()}
    renamed |= {"prompt_encoder.point_embed.weight": points, "prompt_encoder.shared_embedding.positional_embedding": matrix,
                "shared_image_embedding.positional_embedding": matrix}
    theirs = Sam2VideoModel(transformers_config()).eval()
    theirs.load_state_dict(renamed, strict=True)
    return ours, theirs


@torch.inference_mode()
def track(model: Sam2VideoModel, frames: torch.Tensor, tokens: torch.Tensor, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, h, w) mask logits and (T,) scores of one object, prompted by (1, K, C) embeddings on the first frame."""
    encode = model.prompt_encoder.forward

    def with_tokens(*args, **kwargs):
        sparse, dense = encode(*args, **kwargs)
        return (torch.cat([sparse, tokens[None]], 2) if state.first else sparse), dense

    state = SimpleNamespace(first=True)
    monkeypatch.setattr(model.prompt_encoder, "forward", with_tokens)
    remember = model._encode_new_memory
    monkeypatch.setattr(model, "_encode_new_memory", lambda **options: remember(**options | {"is_mask_from_pts": False}))
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **o: self if a == (torch.bfloat16,) else to(self, *a, **o))
    session = Sam2VideoInferenceSession(video=frames, video_height=SIZE, video_width=SIZE, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    nothing = {"point_coords": torch.zeros(1, 1, 1, 2), "point_labels": -torch.ones(1, 1, 1, dtype=torch.int32)}
    session.add_point_inputs(index, 0, nothing)
    session.obj_with_new_inputs = [1]
    masks, scores = [], []
    for t in range(len(frames)):
        out = model(inference_session=session, frame_idx=t)
        masks.append(out.pred_masks[0, 0])
        scores.append(session.get_output(index, t, "object_score_logits", is_conditioning_frame=t == 0).flatten()[0])
        state.first = False
    return torch.stack(masks), torch.stack(scores)


@pytest.mark.parametrize(("offset", "visible"), [(1.0, [True] * FRAMES), (0.27, [True] + [False] * (FRAMES - 1))], ids=["shown", "lost"])
def test_tracking_agrees(pair, monkeypatch, offset, visible):
    """Of an object that is seen on all frames, and of one that is lost after the first; ``offset`` decides it."""
    ours, theirs = pair
    for bias in (ours.sam_mask_decoder.pred_obj_score_head.layers[2].bias, theirs.mask_decoder.pred_obj_score_head.proj_out.bias):
        monkeypatch.setattr(bias, "data", bias.data + offset)
    numbers = torch.Generator().manual_seed(1)
    frames, tokens = torch.randn(FRAMES, 3, SIZE, SIZE, generator=numbers), torch.randn(1, 2, WIDTH, generator=numbers)
    with torch.inference_mode():
        mine = MaskOutput(*ours(frames, tokens, torch.zeros(1, dtype=torch.long), FRAMES, mask_absent=True))
    masks, scores = track(theirs, frames, tokens, monkeypatch)
    torch.testing.assert_close(mine.scores[:, 0], scores, atol=1e-3, rtol=0)
    shown = scores > 0
    assert shown.tolist() == visible
    torch.testing.assert_close(mine.masks[shown, 0], masks[shown], atol=5e-3, rtol=0)
    assert ((mine.masks[:, 0] > 0) != (masks > 0)).sum() <= 2
