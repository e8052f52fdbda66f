"""Settings and vocabulary of the synthetic world, and the one place where its randomness comes from.

Owns what can be chosen (:class:`SynthConfig`) and the words for it. Every random draw of a clip starts from :func:`clip_rng`,
so a clip is a pure function of (config, split, index). Flow: config -> scene -> facts -> questions -> files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from unipixel.errors import ConfigError, nearest

BACKGROUNDS: dict[str, tuple[tuple[int, int], ...]] = {
    "grey": ((122, 134),), "light": ((215, 240),), "dark": ((25, 50),), "mixed": ((215, 240), (25, 50))}
"""Tone -> ranges of mean luminance, one of which a clip draws."""
COLOURS = {
    "red": (222, 42, 42), "green": (36, 168, 62), "blue": (44, 84, 226), "yellow": (242, 212, 40), "purple": (150, 52, 190),
    "cyan": (40, 200, 222), "orange": (246, 132, 28), "pink": (250, 132, 186), "brown": (122, 72, 34),
}
"""RGB 0-255 of each colour word; all saturated, while scenery stays near grey."""
SHAPES = ("circle", "square", "triangle", "diamond", "star", "hexagon")
TEXTURES = ("plain", "stripes", "dots")
QUESTION_TYPES = ("what", "where", "when", "order", "count", "why")
NUMBERS = ("one", "two", "three", "four", "five")


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """What the world looks like and what is asked about it. Lengths are pixels, times seconds; rates are probabilities."""

    seed: int = field(default=0, metadata={"help": "another seed gives another world of the same kind"})
    width: int = field(default=128, metadata={"help": "picture width in pixels, even"})
    height: int = field(default=96, metadata={"help": "picture height in pixels, even"})
    duration_s: float = field(default=6.0, metadata={"help": "length of a clip in seconds"})
    fps: str = field(default="6", metadata={"help": "frames per second as a fraction: '6', '29.97', '24000/1001'"})
    variable_fps: bool = field(default=False, metadata={"help": "jitter the frame times (still strictly increasing, on average fps)"})
    min_objects: int = field(default=1, metadata={"help": "fewest objects in a clip"})
    max_objects: int = field(default=4, metadata={"help": "most objects in a clip, at most 5 and at most the number of colours"})
    min_radius: float = field(default=13.0, metadata={"help": "smallest object radius in pixels"})
    max_radius: float = field(
        default=20.0,
        metadata={"help": "largest object radius in pixels; crowded clips draw from the lower part of the range"})
    min_speed: float = field(default=18.0, metadata={"help": "slowest object in pixels per second"})
    max_speed: float = field(default=34.0, metadata={"help": "fastest object in pixels per second"})
    colours: list[str] = field(
        default_factory=lambda: ["red", "green", "blue", "yellow", "purple", "cyan"],
        metadata={"help": "colours of objects; each is used once per clip"})
    shapes: list[str] = field(default_factory=lambda: ["circle", "square", "triangle"], metadata={"help": "shapes of objects"})
    textures: list[str] = field(
        default_factory=lambda: list(TEXTURES),
        metadata={"help": "textures of objects; they change luminance only"})
    wall_rate: float = field(default=0.35, metadata={"help": "share of clips with a grey wall that objects pass behind"})
    collision_rate: float = field(
        default=0.7,
        metadata={"help": "share of clips in which objects bounce off each other; in the others they cross in front"})
    background: str = field(default="grey", metadata={"help": "tone of the background: grey, light, dark, or mixed (light or dark)"})
    background_contrast: float = field(default=0.08, metadata={"help": "strength of the background texture, 0 to 0.5"})
    noise: float = field(default=0.0, metadata={"help": "standard deviation of per-frame pixel noise on the 0-255 scale"})
    min_visible_s: float = field(default=1.5, metadata={"help": "every object is on screen at least this long in total"})
    question_types: list[str] = field(default_factory=lambda: list(QUESTION_TYPES), metadata={"help": "types of evidence questions to ask"})
    questions_per_clip: int = field(
        default=6,
        metadata={"help": "most evidence questions per clip; fewer where the clip has no clear one left"})
    refers_per_clip: int = field(default=2, metadata={"help": "most referring expressions per clip"})
    captions: bool = field(default=True, metadata={"help": "add a dialogue that describes all objects of the clip"})
    pairs_per_question: int = field(default=2, metadata={"help": "preference pairs per evidence question, each with another failure mode"})
    time_step_s: float = field(default=0.1, metadata={"help": "evidence of an event starts and ends on multiples of this many seconds"})
    event_window_s: float = field(default=0.75, metadata={"help": "evidence of an event reaches this far to both sides of it"})

    def __post_init__(self):
        for name, known in (("colours", COLOURS), ("shapes", SHAPES), ("textures", TEXTURES), ("question_types", QUESTION_TYPES)):
            _check_words(name, getattr(self, name), known)
        if len(self.colours) * len(self.shapes) < 5:
            raise ConfigError(f"colours={self.colours} and shapes={self.shapes} give fewer than 5 different objects: add some, "
                              "questions offer five")
        _check_words("background", [self.background], BACKGROUNDS)
        if self.width < 32 or self.height < 32 or self.width % 2 or self.height % 2:
            raise ConfigError(f"width={self.width}, height={self.height}: set even numbers of at least 32 "
                              "(video encoding needs even sides)")
        if self.rate <= 0 or self.rate > 240:
            raise ConfigError(f"fps={self.fps!r}: set a rate above 0 and at most 240")
        if self.duration_s < 2 * self.min_visible_s or self.duration_s * self.rate < 8:
            raise ConfigError(f"duration_s={self.duration_s} with fps={self.fps!r} and min_visible_s={self.min_visible_s}: set a duration "
                              "of at least 8 frames and twice min_visible_s")
        if abs(self.duration_s * 10 - round(self.duration_s * 10)) > 1e-6:
            raise ConfigError(f"duration_s={self.duration_s}: set a multiple of 0.1 (segments are rounded to 0.1 s)")
        if not 1 <= self.min_objects <= self.max_objects <= min(len(NUMBERS), len(self.colours)):
            raise ConfigError(f"min_objects={self.min_objects}, max_objects={self.max_objects}: set 1 <= min_objects <= max_objects <= "
                              f"{min(len(NUMBERS), len(self.colours))} ({len(self.colours)} colours, at most {len(NUMBERS)} objects)")
        if not 3 <= self.min_radius <= self.max_radius <= min(self.width, self.height) / 4:
            raise ConfigError(f"min_radius={self.min_radius}, max_radius={self.max_radius}: set 3 <= min_radius <= max_radius <= "
                              f"{min(self.width, self.height) / 4} (a quarter of the shorter side)")
        if not 0 < self.min_speed <= self.max_speed:
            raise ConfigError(f"min_speed={self.min_speed}, max_speed={self.max_speed}: set 0 < min_speed <= max_speed")
        for name, low, high in (("wall_rate", 0, 1), ("collision_rate", 0, 1), ("background_contrast", 0, 0.5), ("noise", 0, 64),
                                ("min_visible_s", 0.5, 60), ("questions_per_clip", 0, 50), ("refers_per_clip", 0, 50),
                                ("pairs_per_question", 0, 5), ("time_step_s", 0.1, 2), ("event_window_s", 0.1, 10)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)} is out of range: set {low} to {high}")

    @property
    def rate(self) -> Fraction:
        """Frames per second, exact."""
        try:
            return Fraction(self.fps)
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"fps={self.fps!r} is not a fraction: set for example '6', '29.97' or '24000/1001'") from error

    @property
    def object_counts(self) -> dict[int, float]:
        """Number of objects -> its probability; the fewest and the most are half as likely as those between."""
        weights = {n: 1 if n in (self.min_objects, self.max_objects) else 2 for n in range(self.min_objects, self.max_objects + 1)}
        return {n: weight / sum(weights.values()) for n, weight in weights.items()}

    def to_json(self) -> str:
        """The same text for equal settings; stored with a world and hashed into its clips."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)


def _check_words(name: str, values: Sequence[str], known: Sequence[str] | dict) -> None:
    if not values or len(set(values)) != len(values):
        raise ConfigError(f"{name}={list(values)}: set one or more different names out of {list(known)}")
    for value in values:
        if value not in known:
            raise ConfigError(f"{name} has the unknown name {value!r}; known: {list(known)}{nearest(value, known)}")


def clip_rng(config: SynthConfig, split: str, index: int) -> np.random.Generator:
    """The generator of one clip; streams of different (config, split, index) are unrelated."""
    text = json.dumps([config.to_json(), split, index])
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))
