"""Pixels of the synthetic world: which pixels of each object are visible, and the pictures.

Everything is computed for all frames at once, on the pixels near each object only; edges are anti-aliased from signed distances.
Shapes: ``T`` frames, ``P`` patch side, ``N`` pixels an object touches in all frames, ``H W`` picture.
A mask is true where coverage exceeds one half and nothing nearer covers it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.synth_config import BACKGROUNDS, COLOURS, SynthConfig
from data_tools.synth_scene import Actor, Scene
from data_tools.synth_shapes import REACH, signed_distance


@dataclass(frozen=True)
class Footprint:
    """The pixels that one object touches.

    Attributes:
        index: (N,) positions in the flattened (T, H, W) video, each at most once.
        coverage: (N,) share of the pixel that the object covers, 0 to 1.
        dx, dy: (N,) offset of the pixel from the object's centre.
        whole: pixels in the mask of the object when all of it is seen.
    """

    index: np.ndarray
    coverage: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    whole: int


def footprint(scene: Scene, actor: Actor) -> Footprint:
    half = int(np.ceil(REACH * actor.radius)) + 1
    centre = actor.at(scene.times)
    near = np.flatnonzero(((centre > -half) & (centre < np.array([scene.width, scene.height]) + half)).all(axis=1))
    corner = np.floor(centre[near]).astype(np.int64) - half
    steps = np.arange(2 * half + 1)
    offset = (corner + 0.5 - centre[near])[:, None, :] + steps[None, :, None]
    dx, dy = (offset[..., axis].astype(np.float32) for axis in (0, 1))
    coverage = np.clip(0.5 - signed_distance(actor.shape, actor.radius, dx[:, None, :], dy[:, :, None]), 0, 1)
    x, y = (corner[:, axis, None] + steps for axis in (0, 1))
    in_x, in_y = (x >= 0) & (x < scene.width), (y >= 0) & (y < scene.height)
    frame, row, column = np.nonzero((coverage > 0) & in_x[:, None, :] & in_y[:, :, None])
    index = (near[frame] * scene.height + y[frame, row]) * scene.width + x[frame, column]
    whole = (coverage > 0.5).sum(axis=(1, 2)).max(initial=0)
    return Footprint(index, coverage[frame, row, column], dx[frame, column], dy[frame, row], int(whole))


def visible_masks(scene: Scene) -> tuple[dict[str, np.ndarray], dict[str, Footprint]]:
    """Exact visible pixels: ({oid: (T, H, W) bool}, {oid: Footprint})."""
    covered = np.zeros((len(scene.times), scene.height, scene.width), dtype=bool)
    if scene.wall is not None:
        covered[:, :, scene.wall[0]:scene.wall[1]] = True
    masks, prints = {}, {}
    for actor in scene.actors:
        prints[actor.oid] = touched = footprint(scene, actor)
        own = np.zeros_like(covered)
        own.reshape(-1)[touched.index[touched.coverage > 0.5]] = True
        masks[actor.oid] = own & ~covered
        covered |= own
    return masks, prints


def _texture(actor: Actor, touched: Footprint) -> np.ndarray:
    """(N,) luminance factor that moves with the object."""
    if actor.texture == "plain":
        return np.ones_like(touched.dx)
    wave = np.float32(2 * np.pi / max(6.0, 0.55 * actor.radius))
    if actor.texture == "stripes":
        along = np.float32(np.cos(actor.texture_angle)) * touched.dx + np.float32(np.sin(actor.texture_angle)) * touched.dy
        return 1 + np.float32(0.25) * np.sign(np.sin(wave * along))
    return 1 - np.float32(0.35) * (np.sin(wave * touched.dx) * np.sin(wave * touched.dy) > 0.35)


def _scenery(scene: Scene, config: SynthConfig) -> np.ndarray:
    """(2, H, W, 3) background and wall on the 0-255 scale: near grey, static, textured."""
    rng = np.random.default_rng(scene.look_seed)
    y, x = np.mgrid[:scene.height, :scene.width].astype(np.float32)
    tones = BACKGROUNDS[config.background]
    base = rng.uniform(*tones[rng.integers(len(tones))])
    brick = 128 if abs(base - 128) > 50 else 70
    waves = np.zeros_like(x)
    for _ in range(4):
        kx, ky, phase = rng.uniform([-0.25, -0.25, 0], [0.25, 0.25, 2 * np.pi]).astype(np.float32)
        waves += np.sin(kx * x + ky * y + phase)
    grain = rng.standard_normal(x.shape, dtype=np.float32)
    tint = rng.uniform(-2, 2, 3).astype(np.float32)
    texture = 255 * config.background_contrast * (0.2 * waves + 0.15 * grain)
    shifted = x + 8 * (y // 8 % 2)
    bricks = 14 * ((y // 8 + shifted // 16) % 2) - 26 * ((y % 8 < 1) | (shifted % 16 < 1))
    return np.stack([base + texture[..., None] + tint, np.repeat((brick + bricks + 4 * grain)[..., None], 3, axis=-1)])


def render(scene: Scene, config: SynthConfig, prints: dict[str, Footprint]) -> np.ndarray:
    """(T, H, W, 3) uint8 pictures."""
    background, wall = np.clip(_scenery(scene, config), 0, 255).astype(np.uint8)
    frames = np.repeat(background[None], len(scene.times), axis=0)
    flat = frames.reshape(-1, 3)
    for actor in reversed(scene.actors):
        touched = prints[actor.oid]
        colour = np.array(COLOURS[actor.colour], dtype=np.float32) * _texture(actor, touched)[:, None]
        below = flat[touched.index].astype(np.float32)
        flat[touched.index] = np.clip(below + touched.coverage[:, None] * (colour - below) + 0.5, 0, 255).astype(np.uint8)
    if scene.wall is not None:
        columns = slice(*scene.wall)
        frames[:, :, columns] = wall[:, columns]
    if config.noise:
        grain = np.random.default_rng(scene.look_seed + 1).standard_normal(frames.shape, dtype=np.float32)
        frames = np.clip(frames + np.float32(config.noise) * grain + 0.5, 0, 255).astype(np.uint8)
    return frames
