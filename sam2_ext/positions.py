"""Random Fourier features of points and of times, and the point encoder of a promptable model, exact under any autocast.

The features are sines of large multiples of a coordinate: computed in bfloat16 they would be wrong by whole periods. So the product
with the random matrix always runs in float32, whatever the caller's autocast is. The matrices are buffers of the state dict.
"""

from __future__ import annotations

import math

import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor, nn


class FourierPoints(PositionEmbeddingRandom):
    """``PositionEmbeddingRandom`` of SAM 2 in float32."""

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        return fourier_features(coords, self.positional_encoding_gaussian_matrix)


class FourierTimes(nn.Module):
    """(N,) times in [0, 1] -> (N, 2 * features): the same encoding in one dimension."""

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(1, features))

    def forward(self, times: Tensor) -> Tensor:
        return fourier_features(times[:, None], self.positional_encoding_gaussian_matrix)


def fourier_features(coords: Tensor, matrix: Tensor) -> Tensor:
    """(..., d) coordinates in [0, 1] and a (d, F) matrix -> (..., 2F) float32 sines and cosines (Tancik et al. 2020)."""
    # Products and a sum instead of a matrix product, which autocast would round; two terms at most.
    phase = 2 * math.pi * ((2 * coords.float() - 1)[..., None] * matrix.float()).sum(-2)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def exact_points(encoder: PromptEncoder) -> PromptEncoder:
    """``encoder`` with its point features computed in float32; the same buffer, no random numbers drawn."""
    exact = FourierPoints.__new__(FourierPoints)
    exact.__dict__ = encoder.pe_layer.__dict__
    encoder.pe_layer = exact
    return encoder


def build_point_encoder(width: int, image_size: int, stride: int = 16) -> PromptEncoder:
    """A prompt encoder as SAM 2 has one, for points and boxes on square images of ``image_size`` pixels."""
    grid = image_size // stride
    return exact_points(PromptEncoder(embed_dim=width, image_embedding_size=(grid, grid), input_image_size=(image_size, image_size),
                                      mask_in_chans=16))
