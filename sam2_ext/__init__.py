"""SAM 2 made trainable and promptable by embeddings, on top of the unmodified ``sam2`` package.

Stands alone (never imports ``unipixel``): build a network, encode frames, decode masks from prompt embeddings, unroll over a clip.
"""

from sam2_ext.build import ARCHITECTURES, build_sam2, load_sam2_checkpoint, load_sam2_config
from sam2_ext.model import MaskOutput, SegSAM2
from sam2_ext.positions import FourierTimes, build_point_encoder
from sam2_ext.rope import cut_rope_gradients, reset_rope_tables

__all__ = ["ARCHITECTURES", "FourierTimes", "MaskOutput", "SegSAM2", "build_point_encoder", "build_sam2", "cut_rope_gradients",
           "load_sam2_checkpoint", "load_sam2_config", "reset_rope_tables"]
