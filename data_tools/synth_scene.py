"""Scenes of the synthetic world: which objects there are and how each of them moves. No pixels here.

Motion is piecewise linear. Contacts with edges and with other objects are found in closed form on the outlines (separating axes) and
handled one after the other, so the time of every bounce is exact. An object whose door is open passes an edge instead of bouncing
off it: that is how it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.synth_config import SynthConfig
from data_tools.synth_shapes import REACH, outline, side_normals

SIDES = ("left", "right", "top", "bottom")
_NORMALS = {"left": (1.0, 0.0), "right": (-1.0, 0.0), "top": (0.0, 1.0), "bottom": (0.0, -1.0)}
_ZONES = np.array([(-0.8, 0), (0.8, 0), (0, -0.8), (0, 0.8), (0, 0)])
"""Where objects may start, relative to the middle in half sizes."""
_LATE_RATE, _LEAVE_RATE = 0.6, 0.7
_MAX_BOUNCES = 60


@dataclass(frozen=True)
class Actor:
    """One object. ``knots_t`` (K,) seconds and ``knots_xy`` (K, 2) pixels of the centre; it moves straight between knots."""

    oid: str
    colour: str
    shape: str
    texture: str
    radius: float
    texture_angle: float
    knots_t: np.ndarray
    knots_xy: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def at(self, times: np.ndarray) -> np.ndarray:
        """Centre at ``times`` (T,) -> (T, 2) as x, y."""
        return np.stack([np.interp(times, self.knots_t, self.knots_xy[:, axis]) for axis in (0, 1)], axis=-1)


@dataclass(frozen=True)
class Bounce:
    """A contact. ``against`` is an edge or the other object's id; ``turn_deg`` is how far the direction of ``oid`` changed."""

    time_s: float
    oid: str
    against: str
    turn_deg: float


@dataclass(frozen=True)
class Cast:
    """What kind of scene it is: number of objects, whether there is a wall, whether objects bounce off each other."""

    count: int
    wall: bool
    collide: bool


@dataclass(frozen=True)
class Scene:
    """A clip without pixels. ``actors`` go from nearest to farthest; ``wall`` is (left, right) in pixels, in front of all of them."""

    width: int
    height: int
    duration_s: float
    times: np.ndarray
    actors: tuple[Actor, ...]
    bounces: tuple[Bounce, ...]
    wall: tuple[int, int] | None
    look_seed: int


@dataclass
class _Body:
    """State while the motion is worked out."""

    oid: str
    corners: np.ndarray
    """(V, 2) outline around the centre."""
    position: np.ndarray
    velocity: np.ndarray
    door_s: float
    """From this time on the edges let the object out."""


@dataclass(frozen=True)
class _Approach:
    """What decides whether two bodies touch: along each of ``axes`` (A, 2) their centres must be ``low`` to ``high`` (A,) apart."""

    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray


def frame_times(config: SynthConfig, rng: np.random.Generator) -> np.ndarray:
    """(T,) seconds, the first 0. Jittered times are whole milliseconds, so that files can hold them exactly."""
    count = int(config.duration_s * config.rate)
    steps = np.arange(count, dtype=np.float64)
    if config.variable_fps:
        steps[1:] += rng.uniform(-0.35, 0.35, count - 1)
        return np.round(steps / float(config.rate), 3)
    return steps * config.rate.denominator / config.rate.numerator


def sample_cast(config: SynthConfig, rng: np.random.Generator) -> Cast:
    """Drawn once per clip, before any layout is turned down, so that these shares stay what the settings say."""
    counts = config.object_counts
    count = int(rng.choice(list(counts), p=list(counts.values())))
    return Cast(count, bool(rng.random() < config.wall_rate), bool(rng.random() < config.collision_rate))


def sample_scene(config: SynthConfig, cast: Cast, rng: np.random.Generator) -> Scene | None:
    """A random scene with this cast, or None when the draw cannot be laid out (objects overlap, endless bouncing)."""
    count, wall = cast.count, None
    largest = config.max_radius - (config.max_radius - config.min_radius) * max(0, count - 2) / 3
    if cast.wall:
        largest = min(largest, 1.15 * config.min_radius)
        width = round(2 * REACH * largest + rng.uniform(0.2, 0.5) * (config.min_speed + config.max_speed) / 2)
        left = round(rng.uniform(0.35, 0.65) * config.width - width / 2)
        wall = (left, left + width)
    radii = rng.uniform(config.min_radius, largest, count)
    colours = rng.choice(config.colours, count, replace=False)
    shapes, textures = rng.choice(config.shapes, count), rng.choice(config.textures, count)
    starts = _place(config, rng, radii, flat=wall is not None)
    if starts is None:
        return None
    bodies = [_Body(f"o{i + 1}", outline(shapes[i], radii[i]), *start) for i, start in enumerate(starts)]
    motion = _simulate(bodies, config, collide=cast.collide)
    if motion is None:
        return None
    knots, bounces = motion
    times, paths = np.array([t for t, _ in knots]), np.stack([xy for _, xy in knots], axis=1)
    actors = tuple(
        Actor(body.oid, str(colours[i]), str(shapes[i]), str(textures[i]), float(radii[i]), float(rng.uniform(0, np.pi)), times, paths[i])
        for i, body in enumerate(bodies))
    return Scene(config.width, config.height, config.duration_s, frame_times(config, rng), actors, tuple(bounces), wall,
                 int(rng.integers(2**32)))


def _place(config: SynthConfig, rng: np.random.Generator, radii: np.ndarray, *, flat: bool):
    """[(position, velocity, door time)]: on screen in one of five zones, or outside and heading in later. None on an overlap.

    ``flat`` scenes move mostly sideways, so that objects pass behind the wall.
    """
    size = np.array([config.width, config.height], dtype=np.float64)
    zones = rng.permutation(5)
    starts: list[tuple[np.ndarray, np.ndarray, float]] = []
    for i, radius in enumerate(radii):
        speed = rng.uniform(config.min_speed, config.max_speed)
        sideways = flat and rng.random() < 0.8
        if rng.random() < _LATE_RATE:
            sides = SIDES[:2] if sideways else SIDES
            inward = np.array(_NORMALS[sides[rng.integers(len(sides))]])
            velocity = speed * _rotated(inward, rng.uniform(-0.4, 0.4))
            border = size * (1 - inward) / 2 - inward * radius
            position = np.where(inward != 0, border, rng.uniform(0.3, 0.7) * size)
            position = position - velocity * rng.uniform(0.1, 0.65) * config.duration_s
        else:
            room = size / 2 - REACH * radius - 1
            position = size / 2 * (1 + _ZONES[zones[i]] + rng.uniform(-0.25, 0.25, 2))
            position = np.clip(position, size / 2 - room, size / 2 + room)
            angle = rng.uniform(-0.35, 0.35) + np.pi * rng.integers(2) if sideways else rng.uniform(0, 2 * np.pi)
            velocity = speed * _rotated(np.array([1.0, 0.0]), angle)
        door_s = rng.uniform(0.1, 0.7) * config.duration_s if rng.random() < _LEAVE_RATE else np.inf
        if any(np.hypot(*(position - other)) < REACH * (radius + r) for (other, _, _), r in zip(starts, radii)):
            return None
        starts.append((position, velocity, float(door_s)))
    return starts


def _rotated(vector: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def _simulate(bodies: list[_Body], config: SynthConfig, *, collide: bool):
    """Run the contacts in order -> ([(time, positions (O, 2))], bounces), or None when there are too many of them."""
    pairs = [(a, b, _approach(a, b)) for i, a in enumerate(bodies) for b in bodies[i + 1:]] if collide else []
    borders = {"left": 0.0, "right": -config.width, "top": 0.0, "bottom": -config.height}
    edges = [(body, side, np.array(_NORMALS[side]), offset) for body in bodies for side, offset in borders.items()]
    now, bounces = 0.0, []
    knots = [(0.0, np.stack([b.position for b in bodies]))]
    for _ in range(_MAX_BOUNCES):
        step, event = config.duration_s - now, None
        for body, side, normal, offset in edges:
            after = _edge_contact(body, normal, offset)
            if after < step and now + after < body.door_s:
                step, event = after, (body, side, normal)
        for a, b, approach in pairs:
            after, normal = _pair_contact(a, b, approach)
            if after < step:
                step, event = after, (a, b, normal)
        now += step
        for body in bodies:
            body.position = body.position + body.velocity * step
        knots.append((now, np.stack([b.position for b in bodies])))
        if event is None:
            return knots, bounces
        body, against, normal = event
        if isinstance(against, str):
            bounces.append(_turn(now, body, against, normal))
        else:
            bounces += [_turn(now, body, against.oid, normal), _turn(now, against, body.oid, -normal)]
    return None


def _edge_contact(body: _Body, normal: np.ndarray, offset: float) -> float:
    """Seconds until the outline reaches the edge (inward ``normal``) from inside, or inf."""
    speed = -float(normal @ body.velocity)
    gap = float((body.corners @ normal).min() + normal @ body.position) - offset
    return max(gap, 0.0) / speed if speed > 1e-9 and gap > -1e-6 else np.inf


def _approach(a: _Body, b: _Body) -> _Approach:
    axes = np.concatenate([side_normals(a.corners), side_normals(b.corners)])
    on_a, on_b = a.corners @ axes.T, b.corners @ axes.T
    return _Approach(axes, on_a.min(0) - on_b.max(0), on_a.max(0) - on_b.min(0))


def _pair_contact(a: _Body, b: _Body, approach: _Approach) -> tuple[float, np.ndarray]:
    """(seconds until the outlines touch or inf, unit normal from ``b`` towards ``a``)."""
    apart, speed = approach.axes @ (b.position - a.position), approach.axes @ (b.velocity - a.velocity)
    speed = np.where(np.abs(speed) < 1e-9, 1e-9, speed)
    ends = np.stack([(approach.low - apart) / speed, (approach.high - apart) / speed])
    enter, leave = ends.min(axis=0), ends.max(axis=0)
    last = int(enter.argmax())
    if enter[last] < -1e-6 or leave.min() < enter[last] + 1e-6:
        return np.inf, approach.axes[last]
    return max(0.0, float(enter[last])), np.sign(speed[last]) * approach.axes[last]


def _turn(now: float, body: _Body, against: str, normal: np.ndarray) -> Bounce:
    """Turn a body away from a contact. It keeps its speed, and each of two bodies turns away, so that no contact repeats at once."""
    along = float(normal @ body.velocity)
    turned = body.velocity + (abs(along) - along) * normal
    cosine = float(body.velocity @ turned) / float(body.velocity @ body.velocity)
    body.velocity = turned
    return Bounce(now, body.oid, against, float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
