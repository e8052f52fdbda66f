"""``unipixel preview``: packed samples as one self-contained HTML page, to be looked at before anything is trained on them.

Shows what a reader gets from the shards: frames with masks, what is annotated when, the facts, and the rendered dialogue with its
supervised parts. A sample that cannot be read appears with its error.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from unipixel.config import read_recipe
from unipixel.data import choose, template
from unipixel.data.media import FrameSettings, stable_rng
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, SampleError, UniPixelError
from unipixel.sample import Example, PreferencePair, Sample, SceneObject, Segment

TEMPLATE = Path(__file__).parent / "templates" / "preview.html.j2"
COLOURS = ("#1971c2", "#e03131", "#f08c00", "#9c36b5", "#0c8599", "#e64980", "#5c940d", "#6741d9")
SEGMENT_COLOUR, SUBTITLE_COLOUR, REJECTED_COLOUR = "#2f9e44", "#868e96", "#a61e1e"
MAX_FRAMES = 8
FRAME_WIDTH = 320
STATES = {"visible": "visible", "empty": "not visible", "unknown": "not annotated"}


def state(obj: SceneObject, t: int) -> str:
    """What is known about an object on frame ``t``: a key of ``STATES``."""
    entry = obj.track.entries[t]
    return "unknown" if entry is None else "visible" if entry else "empty"


def shown_objects(example: Example, sample: Sample) -> list[SceneObject]:
    """Evidence of the example and objects cited by its pairs, each once."""
    cited = [oid for target in example.targets for oid in target]
    cited += [oid for pair in example.pairs for oid in (*(pair.chosen_objects or ()), *(pair.rejected_objects or ()))]
    return [sample.medium.objects[oid] for oid in dict.fromkeys(cited)]


def choose_frames(n_frames: int, objects: Sequence[SceneObject]) -> list[int]:
    """Up to ``MAX_FRAMES`` positions, one per equal part of the medium: the visible frame nearest to its middle, else the middle."""
    chosen = []
    for part in np.array_split(np.arange(n_frames), min(n_frames, MAX_FRAMES)) if n_frames else ():
        middle = part[len(part) // 2]
        visible = [t for t in part if any(state(obj, t) == "visible" for obj in objects)]
        chosen.append(int(min(visible or [middle], key=lambda t: abs(t - middle))))
    return chosen


def spread(mask: np.ndarray, pixels: int) -> np.ndarray:
    """(H, W) bool, grown by ``pixels`` in the four directions."""
    padded = np.pad(mask, pixels)
    grown = mask.copy()
    height, width = mask.shape
    for step in range(2 * pixels + 1):
        grown |= padded[step:step + height, pixels:pixels + width] | padded[pixels:pixels + height, step:step + width]
    return grown


def overlay(frame: bytes, masks: Sequence[tuple[np.ndarray, str]]) -> str:
    """Encoded frame with (H, W) bool masks tinted and outlined in their colours -> JPEG data URI.

    The outline lies outside the mask and has a white rim, so that it shows on any colour.
    """
    with Image.open(io.BytesIO(frame)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    thickness = max(1, pixels.shape[1] // FRAME_WIDTH)
    for mask, colour in masks:
        rgb = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
        line, rim = spread(mask, thickness), spread(mask, 2 * thickness)
        pixels[mask] = 0.65 * pixels[mask] + 0.35 * rgb
        pixels[line & ~mask] = rgb
        pixels[rim & ~line] = 255
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture = picture.resize((FRAME_WIDTH, max(1, round(picture.height * FRAME_WIDTH / picture.width))))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def frame_views(sample: Sample, example: Example, objects: Sequence[SceneObject]) -> list[dict[str, Any]]:
    colours = dict(zip((o.oid for o in objects), (COLOURS[i % len(COLOURS)] for i in range(len(objects))), strict=True))
    views = []
    for t in choose_frames(len(sample.frames), objects):
        time = sample.medium.frame_times[t]
        visible = [(o.track.decode([t])[0], colours[o.oid]) for o in objects if state(o, t) == "visible"]
        views.append({
            "position": t, "time": time, "uri": overlay(sample.frames[t], visible),
            "evidence": any(start <= time <= end for start, end in example.segments or ()),
            "badges": [{"oid": o.oid, "state": state(o, t), "label": STATES[state(o, t)], "colour": colours[o.oid]} for o in objects],
        })
    return views


def lanes(sample: Sample, example: Example, objects: Sequence[SceneObject]) -> list[dict[str, Any]]:
    """Rows of the time bar: segments, the sides of the pairs, subtitles, and per object the state of every frame."""
    medium = sample.medium
    if medium.kind != "frames":
        return []
    length = max(medium.duration_s, medium.frame_times[-1])

    def lane(name: str, colour: str, parts: Sequence[tuple[float, float, str, bool]]) -> dict[str, Any]:
        placed = [{"left": 100 * s / length, "width": 100 * (e - s) / length, "title": title, "empty": empty} for s, e, title, empty in parts]
        return {"name": name, "colour": colour, "parts": placed}

    def times(segments: Sequence[Segment]) -> list[tuple[float, float, str, bool]]:
        return [(s, e, f"{s:.2f} - {e:.2f} s", False) for s, e in segments]

    rows = [lane("segments" if example.segments is not None else "segments (not annotated)", SEGMENT_COLOUR, times(example.segments or ()))]
    for pair in example.pairs:
        for side, segments, colour in (("chosen", pair.chosen_segments, SEGMENT_COLOUR), ("rejected", pair.rejected_segments, REJECTED_COLOUR)):
            if segments is not None:
                rows.append(lane(f"{pair.pair_id} {side}", colour, times(segments)))
    if medium.subtitles:
        rows.append(lane("subtitles", SUBTITLE_COLOUR, [(s.start_s, s.end_s, s.text, False) for s in medium.subtitles]))
    ends = [*medium.frame_times[1:], length]
    for i, obj in enumerate(objects):
        spans = [(start, end, f"frame {t}: {STATES[state(obj, t)]}", state(obj, t) == "empty")
                 for t, (start, end) in enumerate(zip(medium.frame_times, ends, strict=True)) if state(obj, t) != "unknown"]
        rows.append(lane(f"{obj.oid}: {obj.expression}", COLOURS[i % len(COLOURS)], spans))
    return rows


def format_times(segments: Sequence[Segment] | None) -> str:
    if segments is None:
        return "not annotated"
    return ", ".join(f"{s:.2f} - {e:.2f} s" for s, e in segments) or "annotated as absent"


def pair_view(pair: PreferencePair) -> dict[str, str]:
    evidence = "; ".join(f"{side} cites {format_times(segments)}, objects {', '.join(objects or ()) or 'none'}" for side, segments, objects in (
        ("chosen", pair.chosen_segments, pair.chosen_objects), ("rejected", pair.rejected_segments, pair.rejected_objects)))
    return {"pair_id": pair.pair_id, "chosen": pair.chosen, "rejected": pair.rejected, "failure_mode": pair.failure_mode, "evidence": evidence}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a training run shows a sample."""

    frames: FrameSettings = FrameSettings()
    text: template.TemplateSettings = template.TemplateSettings(paraphrase=False)

    @classmethod
    def of_recipe(cls, path: str) -> Reading:
        """The recipe's own settings; of paraphrases the first wording."""
        recipe = read_recipe(path)
        kinds = FrameSettings, template.TemplateSettings
        frames, text = ({f.name: recipe[f.name] for f in dataclasses.fields(kind) if f.name in recipe} for kind in kinds)
        return cls(FrameSettings(**frames), template.TemplateSettings(**text | {"paraphrase": False}))

    def render(self, sample: Sample) -> template.Rendered:
        if not template.in_pictures(sample.medium, self.text):
            return template.render(sample, self.text)
        frames = choose.choose_frames(sample, self.frames, stable_rng("preview", sample.key))
        return template.render(sample, self.text, frames=frames, form=template.ChatForm(placed=True))


def sample_view(sample: Sample, row: int, count_tokens: Callable[[str], int] | None, reading: Reading = Reading()) -> dict[str, Any]:
    """Everything the page shows about the (only) example of ``sample``."""
    medium, example = sample.medium, sample.examples[0]
    objects = shown_objects(example, sample)
    targets = [" + ".join(f"{oid}: {medium.objects[oid].expression}" for oid in target) or "nothing (empty mask)" for target in example.targets]
    facts = [("question", example.question), ("answer", example.answer), ("segments", format_times(example.segments)),
             ("targets", "; ".join(targets)), ("type", example.question_type), ("rationale", example.rationale)]
    facts += [(turn.role, turn.text) for turn in example.turns]
    facts += [("subtitle" if i == 0 else "", f"{s.start_s:.2f} - {s.end_s:.2f} s  {s.text}") for i, s in enumerate(medium.subtitles)]
    spans = reading.render(sample).spans
    tokens = ""
    if count_tokens:
        counts = [(count_tokens(text), supervised) for text, supervised in spans]
        tokens = f"{sum(n for n, _ in counts)} text tokens (the visual placeholder counts once), {sum(n for n, s in counts if s)} supervised"
    return {
        "row": row, "title": example.example_id, "error": "",
        "facts": f"{sample.key} | {sample.kind}, {example.task} | {len(sample.frames)} frames of {medium.width}x{medium.height} px, "
                 f"{medium.duration_s:.2f} s | {len(medium.objects)} objects",
        "frames": frame_views(sample, example, objects), "lanes": lanes(sample, example, objects),
        "table": [(name, value) for name, value in facts if value],
        "options": [{"text": option, "right": option == example.answer} for option in example.options],
        "pairs": [pair_view(pair) for pair in example.pairs], "spans": spans, "tokens": tokens,
    }


def build_page(data: ShardDataset, limit: int, count_tokens: Callable[[str], int] | None = None, reading: Reading = Reading()) -> str:
    """HTML of up to ``limit`` examples, evenly spaced over the dataset."""
    views = []
    for row in np.unique(np.linspace(0, len(data) - 1, min(limit, len(data))).round().astype(int)).tolist():
        try:
            views.append(sample_view(data.sample(row), row, count_tokens, reading))
        except SampleError as error:
            views.append({"row": row, "title": data.rows["example_id"][row].as_py(), "error": f"{error.reason}: {error}"})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    title = "Preview of " + ", ".join(f"{m['name']}/{m['split']}" for m in data.manifests)
    return page.render(title=title, manifests=data.manifests, samples=views, total=len(data))


def token_counter(folder: str) -> Callable[[str], int]:
    """Length of a text in tokens of the tokenizer in ``folder``."""
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise ConfigError(f"--tokenizer {folder!r} is not a folder: name one with tokenizer files, or leave the option out")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def preview(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UniPixelError: a folder is no packed dataset, or a setting is unusable.
    """
    if args.limit < 1:
        raise ConfigError(f"--limit={args.limit} must be at least 1")
    page = build_page(ShardDataset(args.shards), args.limit, token_counter(args.tokenizer) if args.tokenizer else None,
                      Reading.of_recipe(args.recipe) if args.recipe else Reading())
    Path(args.out).write_text(page, encoding="utf-8")
    print(f"wrote {args.out} ({len(page) / 1e6:.1f} MB)")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel preview``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="unipixel preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", metavar="SHARD_DIR", help="folder written by `unipixel pack`")
    parser.add_argument("--out", default="preview.html", help="page to write (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=12, help="how many examples to show (default: %(default)s)")
    parser.add_argument("--tokenizer", metavar="DIR", help="count tokens with the tokenizer in this folder")
    parser.add_argument("--recipe", metavar="FILE", help="show the dialogue as a run with this recipe has it (default: plain, by letter)")
    try:
        preview(parser.parse_args(argv))
    except UniPixelError as error:
        print(f"unipixel preview: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
