"""Names of weights: in memory, in the files of a training run, and in a released full checkpoint. Both directions, nothing else.

    module name   ``model.visual.…``, ``model.language_model.…``, ``lm_head.weight``, ``seg_head.…``, ``ref_proj.…``, ``sam2.…``: the
                  UniPixel family's own names, used by its partial files (there behind PEFT's prefix when LoRA is on)
    full name     the same but ``visual.…`` and ``model.…``: how a released checkpoint spells the backbone
    memory name   :class:`~unipixel.model.grounded.GroundedVLM`'s: the backbone below ``backbone.``, the point modules below
                  ``point_prompts.``, SAM 2's layer scale called ``gamma``
"""

from __future__ import annotations

from sam2_ext.build import to_sam2_name, to_unipixel_name

PEFT_PREFIX = "base_model.model."
BACKBONE, POINTS = "backbone.", "point_prompts."
POINT_MODULES = ("ref_encoder", "ref_proj_single", "ref_proj_double", "ref_proj", "tem_pe", "tem_emb", "tem_proj")
"""What turns a point or a box at a time into the embedding of a ``<|ref|>``."""
HEADS = ("seg_head", "msk_proj", *POINT_MODULES)
"""First components of everything that neither the backbone nor SAM 2 brings along."""
FOURIER = tuple(f"{module}.positional_encoding_gaussian_matrix" for module in ("ref_encoder.pe_layer", "tem_pe"))
"""Random matrices, drawn once; the reference's partial files lack them."""


ADAPTER_TENSORS = ("lora_A", "lora_B", "lora_magnitude_vector", "trainable_tokens_delta")
"""Last components of what PEFT adds; its own adapter files hold exactly these."""


def is_adapter(name: str) -> bool:
    """Whether a tensor belongs to PEFT's adapters, in any of the spellings."""
    return any(f".{kind}" in name for kind in ADAPTER_TENSORS)


def module_name(name: str) -> str:
    """Memory name -> module name. PEFT's prefix and its adapter's name go; ``.base_layer`` stays."""
    for kind in ADAPTER_TENSORS:
        name = name.replace(f".{kind}.default", f".{kind}")
    if name.startswith("sam2."):
        return to_unipixel_name(name)
    return name.removeprefix(BACKBONE).removeprefix(PEFT_PREFIX).removeprefix(POINTS)


def memory_name(name: str) -> str:
    """Module name, full name or name in a partial file -> memory name in a model without PEFT."""
    name = from_full_name(name.removeprefix(PEFT_PREFIX))
    head = name.partition(".")[0]
    if head == "sam2":
        return to_sam2_name(name)
    if head in POINT_MODULES:
        return POINTS + name
    return name if head in HEADS else BACKBONE + name


def from_full_name(name: str) -> str:
    """Full name -> module name; module names stay."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def full_name(name: str) -> str:
    """Module name -> full name; the inverse of :func:`from_full_name`."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1) if name.startswith("model.language_model.") else name


def part_head(name: str) -> str:
    """First component of a module name, which names its part: ``model``, ``lm_head``, ``sam2`` or one of :data:`HEADS`."""
    return name.partition(".")[0]
