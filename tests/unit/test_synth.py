"""Clips as pictures: same seed same clip, masks agree with the pixels, objects move and bounce as told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_tools.synth import SynthConfig, make_clip, plan_clip
from data_tools.synth_config import COLOURS
from data_tools.synth_scene import SIDES
from data_tools.synth_shapes import REACH, outline, signed_distance
from unipixel.errors import ConfigError

CONFIG = SynthConfig()


@pytest.fixture(scope="module")
def clips():
    return [make_clip(CONFIG, "train", index) for index in range(24)]


@pytest.fixture(scope="module")
def plans():
    return [plan_clip(CONFIG, "train", index) for index in range(60)]


def test_clip_is_a_pure_function_of_its_arguments(clips):
    """The global generator must neither matter nor move."""
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    again = make_clip(CONFIG, "train", 7)
    assert (np.random.get_state()[1] == before).all()
    assert (again.frames == clips[7].frames).all()
    assert (again.medium, again.examples, again.times) == (clips[7].medium, clips[7].examples, clips[7].times)


def test_split_index_and_seed_all_matter_and_no_two_clips_are_alike(clips):
    others = [make_clip(CONFIG, "test", i) for i in range(8)] + [make_clip(SynthConfig(seed=1), "train", i) for i in range(8)]
    pictures = {clip.frames.tobytes() for clip in [*clips, *others]}
    assert len(pictures) == len(clips) + 16


def test_default_clip_has_the_documented_form(clips):
    for clip in clips:
        assert clip.frames.shape == (36, 96, 128, 3) and clip.frames.dtype == np.uint8
        assert clip.times == pytest.approx([k / 6 for k in range(36)])
        assert clip.medium.duration_s == 6.0 and 1 <= len(clip.medium.objects) <= 4
        colours = [obj.expression.split()[1] for obj in clip.medium.objects.values()]
        assert len(set(colours)) == len(colours)


def test_masks_hold_the_pixels_of_their_colour(clips):
    """Every pixel well inside a mask is nearest to its own colour in direction (texture changes luminance only)."""
    directions = {name: np.array(rgb) / np.linalg.norm(rgb) for name, rgb in COLOURS.items() if name in CONFIG.colours}
    checked = 0
    for clip in clips:
        for obj in clip.medium.objects.values():
            mask = obj.track.decode()
            inner = mask[:, 1:-1, 1:-1] & mask[:, :-2, 1:-1] & mask[:, 2:, 1:-1] & mask[:, 1:-1, :-2] & mask[:, 1:-1, 2:]
            pixels = clip.frames[:, 1:-1, 1:-1][inner].astype(float)
            pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
            nearest = np.stack([pixels @ d for d in directions.values()]).argmax(axis=0)
            right = list(directions).index(obj.expression.split()[1])
            checked += len(pixels)
            assert (nearest == right).mean() > 0.99, obj.expression
    assert checked > 100_000


def test_pixels_outside_the_masks_are_at_most_half_colour(clips):
    """The strongest colour spans 203 levels, 1.25 times that on a bright stripe; scenery spans 12. Half of both is what a rim may have."""
    for clip in clips:
        outside = ~np.any([obj.track.decode() for obj in clip.medium.objects.values()], axis=0)
        frames = clip.frames.astype(int)
        span = (frames.max(axis=-1) - frames.min(axis=-1))[outside]
        assert span.max() <= 0.5 * (1.25 * 203 + 12) + 1 and (span > 12).mean() < 0.02  # + 1: rounding to whole levels


def test_masks_agree_with_supersampled_shapes(plans):
    """Independent drawing: 5 x 5 samples per pixel, objects from far to near, then the wall."""
    grid = (np.arange(5) + 0.5) / 5
    for plan in plans[:12]:
        scene = plan.facts.scene
        y = (np.arange(scene.height)[:, None] + grid).reshape(-1, 1)
        x = (np.arange(scene.width)[:, None] + grid).reshape(1, -1)
        for t in (5, 20, 33):
            covered = np.zeros((scene.height, scene.width), dtype=bool)
            if scene.wall:
                covered[:, scene.wall[0]:scene.wall[1]] = True
            for actor in scene.actors:
                cx, cy = actor.at(scene.times[t:t + 1])[0]
                if actor.shape == "circle":
                    inside = (x - cx) ** 2 + (y - cy) ** 2 < actor.radius**2
                else:
                    corners = outline(actor.shape, actor.radius) + (cx, cy)
                    inside = np.ones((len(y), x.shape[1]), dtype=bool)
                    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
                share = inside.reshape(scene.height, 5, scene.width, 5).mean(axis=(1, 3)) > 0.5
                expected = share & ~covered
                covered |= share
                got = plan.masks[actor.oid][t]
                assert (got ^ expected).sum() <= 0.04 * max(expected.sum(), 50), (plan.clip_id, actor.name, t)


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "diamond", "star", "hexagon"])
def test_distance_is_signed_and_fits_the_outline(shape):
    corners = outline(shape, 20.0).astype(np.float32)
    on_rim = signed_distance(shape, 20.0, corners[:, 0], corners[:, 1])
    assert np.abs(on_rim).max() < 1e-3
    assert signed_distance(shape, 20.0, np.float32([0.0]), np.float32([0.0]))[0] < -5
    assert signed_distance(shape, 20.0, *np.float32([[25.0, 0.0], [0.0, 25.0]])).min() > 0
    assert np.linalg.norm(corners, axis=1).max() <= REACH * 20


def test_star_has_notches():
    toward_notch = np.float32(0.8 * 20)
    assert signed_distance("star", 20.0, np.float32(0), toward_notch) > 1 > -1 > signed_distance("star", 20.0, np.float32(0), -toward_notch)


def test_objects_keep_their_speed(plans):
    for plan in plans:
        for actor in plan.facts.scene.actors:
            steps, gaps = np.diff(actor.knots_xy, axis=0), np.diff(actor.knots_t)
            speed = np.linalg.norm(steps, axis=1)[gaps > 1e-3] / gaps[gaps > 1e-3]
            assert np.ptp(speed) < 1e-6 and CONFIG.min_speed <= speed[0] <= CONFIG.max_speed


def test_bounces_happen_at_the_touch_and_never_overlap():
    config = SynthConfig(collision_rate=1.0, wall_rate=0.0, min_objects=3)
    touches = 0
    for index in range(30):
        facts = plan_clip(config, "train", index).facts
        actors = {actor.oid: actor for actor in facts.scene.actors}
        for hit in facts.hits:
            if not (hit.clear and hit.against in actors):
                continue
            a, b = (outline(actors[o].shape, actors[o].radius) + actors[o].at(np.array([hit.time_s])) for o in (hit.oid, hit.against))
            gap = min(_distance(p, b) for p in a), min(_distance(p, a) for p in b)
            assert min(gap) < 1.0, "at a bounce a corner of one touches a side of the other"
            touches += 1
        masks = np.stack([_whole_mask(facts.scene, actor) for actor in actors.values()]).sum(axis=0)
        assert (masks > 1).sum() <= 30, "objects that bounce do not overlap (a few shared border pixels aside)"
    assert touches >= 20


def test_objects_cross_where_collisions_are_off():
    config = SynthConfig(collision_rate=0.0, min_objects=3)
    overlap = sum(int((np.stack([_whole_mask(p.facts.scene, a) for a in p.facts.scene.actors]).sum(axis=0) > 1).sum())
                  for p in (plan_clip(config, "train", i) for i in range(8)))
    assert overlap > 1000


def _distance(point, polygon) -> float:
    """From a point to the border of a polygon."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    along = np.clip(((point - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
    return float(np.linalg.norm(a + along[:, None] * (b - a) - point, axis=1).min())


def _whole_mask(scene, actor) -> np.ndarray:
    """(T, H, W) without occlusion."""
    centre = actor.at(scene.times).astype(np.float32)
    dx = np.arange(scene.width, dtype=np.float32)[None, None] + 0.5 - centre[:, 0, None, None]
    dy = np.arange(scene.height, dtype=np.float32)[None, :, None] + 0.5 - centre[:, 1, None, None]
    return signed_distance(actor.shape, actor.radius, dx, dy) < 0


def test_turning_around_reverses_the_motion(plans):
    """A hit on an edge flips the part of the motion that points at the edge."""
    flips = 0
    for plan in plans:
        scene = plan.facts.scene
        for hit in plan.facts.hits:
            actor = next(a for a in scene.actors if a.oid == hit.oid)
            nearby = [h for h in plan.facts.hits if h.oid == hit.oid and h is not hit and abs(h.time_s - hit.time_s) < 0.1]
            if hit.against not in SIDES or nearby or not 0.05 < hit.time_s < scene.duration_s - 0.05:
                continue
            axis, sign = int(hit.against in ("top", "bottom")), 1 if hit.against in ("left", "top") else -1
            x = actor.at(hit.time_s + np.array([-0.05, 0.0, 0.05]))[:, axis] * sign
            assert x[0] > x[1] < x[2]
            flips += 1
    assert flips > 20


def test_every_clip_has_temporal_structure(plans):
    for plan in plans:
        whole = [mask.any(axis=(1, 2)).all() for mask in plan.masks.values()]
        assert not all(whole)
        for mask in plan.masks.values():
            assert mask.any(axis=(1, 2)).sum() / 6 >= CONFIG.min_visible_s


def test_shares_of_walls_and_object_counts_follow_the_settings():
    config = SynthConfig(wall_rate=0.5, min_objects=2, max_objects=3, questions_per_clip=0, refers_per_clip=0)
    scenes = [plan_clip(config, "train", i).facts.scene for i in range(120)]
    assert 0.38 < np.mean([scene.wall is not None for scene in scenes]) < 0.62
    assert 0.38 < np.mean([len(scene.actors) == 2 for scene in scenes]) < 0.62


def test_frame_times_of_broken_and_variable_rates():
    film = make_clip(SynthConfig(fps="24000/1001", duration_s=3.0, max_objects=2), "train", 0)
    assert film.times == pytest.approx([k * 1001 / 24000 for k in range(71)], abs=1e-12) and len(film.frames) == 71
    jittered = make_clip(SynthConfig(variable_fps=True), "train", 0)
    gaps = np.diff(jittered.times)
    assert gaps.min() > 0 and gaps.std() > 0.01 and jittered.times[0] == 0 and len(jittered.times) == 36
    assert gaps.mean() == pytest.approx(1 / 6, rel=0.05)


def test_harder_settings_are_honoured():
    config = SynthConfig(width=160, height=120, shapes=["star", "hexagon", "diamond"], colours=["orange", "pink", "brown"],
                         textures=["dots"], min_objects=3, max_objects=3, noise=8.0, background_contrast=0.3, min_radius=10, max_radius=16)
    noisy = make_clip(config, "train", 0)
    words = {tuple(obj.expression.split()[1:]) for obj in noisy.medium.objects.values()}
    assert {colour for colour, _ in words} == {"orange", "pink", "brown"}
    assert {shape for _, shape in words} <= {"star", "hexagon", "diamond"}
    assert noisy.frames.shape[1:3] == (120, 160)
    still = make_clip(dataclasses.replace(config, noise=0.0), "train", 0)
    for clip, low, high in ((still, 0, 0), (noisy, 4, 10)):
        scenery = ~np.any([obj.track.decode() for obj in clip.medium.objects.values()], axis=(0, 1))
        assert scenery.sum() > 2000
        assert low <= np.median(clip.frames[:, scenery].std(axis=0)) <= high, "the background stands still but for the noise"


@pytest.mark.parametrize(("setting", "message"), [
    ({"question_types": ["what", "wen"]}, r"question_types.*'wen'.*nearest: 'when'"),
    ({"colours": ["red", "bleu"]}, r"colours.*'bleu'.*nearest: 'blue'"),
    ({"shapes": []}, r"shapes=\[\]"),
    ({"shapes": ["circle"], "colours": ["red", "blue"], "max_objects": 2}, r"fewer than 5 different objects"),
    ({"fps": "fast"}, r"fps='fast'.*24000/1001"),
    ({"fps": "0"}, r"fps='0'"),
    ({"width": 127}, r"width=127.*even"),
    ({"max_objects": 7}, r"max_objects=7"),
    ({"min_objects": 4, "max_objects": 3}, r"min_objects=4"),
    ({"max_radius": 60.0}, r"max_radius=60.0"),
    ({"min_speed": 0.0}, r"min_speed=0.0"),
    ({"wall_rate": 1.5}, r"wall_rate=1.5.*0 to 1"),
    ({"pairs_per_question": 9}, r"pairs_per_question=9"),
    ({"duration_s": 1.0}, r"duration_s=1.0"),
    ({"duration_s": 6.03}, r"duration_s=6.03.*0.1"),
])
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        SynthConfig(**setting)


def test_impossible_world_says_what_to_change():
    config = SynthConfig(min_objects=5, max_objects=5, min_radius=24, max_radius=24, wall_rate=1.0)
    with pytest.raises(ConfigError, match="no clear clip.*max_objects"):
        plan_clip(config, "train", 0)
