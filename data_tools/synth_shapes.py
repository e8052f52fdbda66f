"""Geometry of the shapes: signed distance for drawing, outline for contacts. All lengths are in pixels, y points down."""

from __future__ import annotations

import numpy as np

_POLYGONS = {  # corners, direction of the first corner in radians, distance of the corners / object radius
    "square": (4, np.pi / 4, 1.12), "triangle": (3, -np.pi / 2, 1.18), "diamond": (4, 0.0, 1.08), "star": (5, -np.pi / 2, 1.18),
    "hexagon": (6, 0.0, 1.02),
}
_STAR_NOTCH = 0.45
"""Distance of a star's notches / distance of its tips."""
_CIRCLE_SIDES = 24
REACH = 1.2
"""No shape extends further than this many radii from its centre."""


def signed_distance(shape: str, radius: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Pixels from the outline, negative inside; ``dx``/``dy`` are offsets from the centre (float32) and broadcast."""
    if shape == "circle":
        return np.hypot(dx, dy) - np.float32(radius)
    if shape == "star":
        return _star_distance(radius, dx, dy)
    corners = outline(shape, radius)
    normals = side_normals(corners)
    depth = np.float32(normals[0] @ corners[0])
    return np.maximum.reduce([x * dx + y * dy for x, y in normals.astype(np.float32)]) - depth


def _star_distance(radius: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """All tips are folded onto one half of one tip, whose side is a straight line."""
    tips, first, outer = _POLYGONS["star"]
    sector, tip = np.pi / tips, radius * outer
    folded = np.abs(np.mod(np.arctan2(dy, dx) - np.float32(first) + np.float32(sector), np.float32(2 * sector)) - np.float32(sector))
    side = np.array([_STAR_NOTCH * np.sin(sector), 1 - _STAR_NOTCH * np.cos(sector)])
    normal = (side / np.hypot(*side)).astype(np.float32)
    return np.hypot(dx, dy) * (normal[0] * np.cos(folded) + normal[1] * np.sin(folded)) - normal[0] * np.float32(tip)


def outline(shape: str, radius: float) -> np.ndarray:
    """Corners (V, 2) of the shape (of a star its tips) around the centre, in order; a circle is taken as a polygon with many sides."""
    count, first, outer = _POLYGONS.get(shape, (_CIRCLE_SIDES, 0.0, 1.0))
    angles = first + 2 * np.pi * np.arange(count) / count
    return radius * outer * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def side_normals(corners: np.ndarray) -> np.ndarray:
    """Unit normals (V, 2) of the sides of a polygon (V, 2)."""
    sides = np.roll(corners, -1, axis=0) - corners
    return np.stack([sides[:, 1], -sides[:, 0]], axis=-1) / np.linalg.norm(sides, axis=1, keepdims=True)
