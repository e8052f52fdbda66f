"""``unipixel report``: scored predictions as one self-contained HTML page, and single examples as a picture.

Shows every example beside its truth: frames with true and predicted masks, segments on a time bar, question, options, reply and scores,
for one model or for two side by side. It scores nothing itself: numbers come from the result file of ``unipixel score``, which must
belong to the same prediction file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.score import METRICS, SCHEMA, differences, percent
from benchmarks.st_evidence import GroundTruth, from_samples, predicted_evidence, read_samples, scored_examples
from unipixel.config import parse, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError, UniPixelError
from unipixel.infer.predictions import Prediction, read_predictions
from unipixel.metrics import jf, map_option
from unipixel.metrics.bitplane import dilate
from unipixel.sample import EMPTY, Entry, Example, Sample, Segment, decode_entry

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
COLOURS = {"hit": (51, 154, 240), "false": (240, 62, 62), "missed": (252, 196, 25), "truth": (47, 158, 68)}
"""RGB of correctly predicted, wrongly predicted and missed pixels, and of the outline of the truth."""
TINT = 0.7
ROW_NAMES = ("input", "truth", "prediction")


@dataclass
class ReportArguments:
    """Settings of ``unipixel report``."""

    predictions: str = setting("", "prediction file (.jsonl)")
    score: str = setting("", "result file that `unipixel score` wrote for it")
    shards: list[str] = setting([], "packed datasets with the frames and the ground truth")
    baseline_predictions: str = setting("", "a second prediction file to compare with, for instance of the untrained model")
    baseline_score: str = setting("", "its result file")
    name: str = setting("trained", "what to call the model")
    baseline_name: str = setting("untrained", "what to call the second one")
    out: str = setting("report.html", "page to write")
    limit: int = setting(100, "show at most so many examples, evenly spaced; the headline always covers all of them")
    frames: int = setting(6, "frames per example")
    width: int = setting(300, "width of a frame in pixels")
    panel: str = setting("", "also write one example as a picture to this PNG file")
    panel_example: str = setting("", "example_id of that picture")

    def __post_init__(self):
        if not (self.predictions and self.score and self.shards):
            raise ConfigError("--predictions, --score and --shards are needed")
        if bool(self.baseline_predictions) != bool(self.baseline_score):
            raise ConfigError("--baseline-predictions and --baseline-score belong together")
        if bool(self.panel) != bool(self.panel_example):
            raise ConfigError("--panel and --panel-example belong together")
        if min(self.limit, self.frames, self.width) < 1:
            raise ConfigError(f"limit={self.limit}, frames={self.frames} and width={self.width} must be at least 1")


@dataclass(frozen=True)
class Run:
    """One model's predictions and their result file."""

    name: str
    predictions: Mapping[str, Prediction]
    result: Mapping[str, Any]


def load_run(name: str, predictions: str, result: str) -> Run:
    """Both files of one model. Raises :class:`DataError` when the result was made from other predictions."""
    try:
        content = json.loads(Path(result).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{result} is not a readable result file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or set(content["metrics"]) != set(METRICS):
        raise DataError(f"{result} is not a result file of this version's `unipixel score` (schema {SCHEMA!r}): run it again")
    if content["card"]["predictions"]["sha256"] != hashlib.sha256(Path(predictions).read_bytes()).hexdigest():
        raise DataError(f"{result} was made from other predictions than {predictions}: run `unipixel score` again")
    return Run(name, read_predictions(predictions), content)


# --- pictures --------------------------------------------------------------------------------------------------------------------

def overlay(frame: np.ndarray, truth: np.ndarray | None, pred: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 frame with (H, W) bool masks drawn in -> uint8.

    Predicted pixels are tinted as hit or false and missed ones as missed; the truth has an outline just outside of it. Without a
    prediction only the outline is drawn; without a truth (frame not annotated) the prediction cannot be judged and is all "hit".
    """
    out = frame.astype(np.float32)
    if pred is not None:
        known = pred if truth is None else truth
        for name, mask in (("hit", pred & known), ("false", pred & ~known), ("missed", known & ~pred)):
            out[mask] = (1 - TINT) * out[mask] + TINT * np.array(COLOURS[name])
    if truth is not None and truth.any():
        line, rim = (dilate(truth.view(np.uint8), width).astype(bool) for width in (2, 3))
        out[rim & ~line] = 255
        out[line & ~truth] = COLOURS["truth"]
    return out.astype(np.uint8)


def mask_panel(frames: Sequence[np.ndarray], pred: np.ndarray, gt: np.ndarray, captions: Sequence[str] = ()) -> Image.Image:
    """Picture with three rows of frames: input, truth (outline), prediction (hit, false and missed pixels tinted, truth outlined).

    ``frames``: (H, W, 3) uint8 each; ``pred``, ``gt``: (N, H, W) bool; ``captions``: one line per frame, or none.
    """
    if not len(frames) == len(pred) == len(gt) or (captions and len(captions) != len(frames)):
        raise ValueError(f"{len(frames)} frames, {len(pred)} predicted and {len(gt)} true masks, {len(captions)} captions: "
                         "one of each per frame is needed")
    height, width = frames[0].shape[:2]
    gap, label, line = 4, 90, 22 if captions else 0
    sheet = Image.new("RGB", (label + len(frames) * (width + gap), line + 3 * (height + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    rows = (frames, [overlay(f, g, None) for f, g in zip(frames, gt)], [overlay(f, g, p) for f, g, p in zip(frames, gt, pred)])
    for number, (name, row) in enumerate(zip(ROW_NAMES, rows)):
        top = line + number * (height + gap)
        draw.text((4, top + height // 2), name, "black", font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (label + column * (width + gap), top))
    for column, caption in enumerate(captions):
        draw.text((label + column * (width + gap) + width // 2, line // 2), caption, "black", font, anchor="mm")
    return sheet


def decode_frame(data: bytes, width: int) -> np.ndarray:
    """Encoded image -> (h, width, 3) uint8, aspect kept."""
    with Image.open(io.BytesIO(data)) as image:
        size = width, max(1, round(image.height * width / image.width))
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def fit(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(H, W) bool -> the height and width of ``like``, nearest."""
    return np.asarray(Image.fromarray(mask).resize(like.shape[1::-1], Image.Resampling.NEAREST))


def data_uri(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def choose_frames(truth: GroundTruth, n_frames: int, count: int) -> list[int]:
    """Up to ``count`` positions, one per equal part of the scored frames (of all frames without mask truth), visible ones first."""
    candidates = sorted(truth.evidence) or list(range(n_frames))
    chosen = []
    for part in np.array_split(np.array(candidates), min(count, len(candidates))):
        middle = part[len(part) // 2]
        visible = [t for t in part if truth.evidence.get(t, EMPTY) != EMPTY]
        chosen.append(int(min(visible or [middle], key=lambda t: abs(t - middle))))
    return chosen


# --- the page --------------------------------------------------------------------------------------------------------------------

def model_masks(prediction: Prediction | None, truth: GroundTruth) -> dict[int, Entry]:
    """Frame position -> predicted union in the size of the truth; empty without a prediction or without masks."""
    return predicted_evidence(prediction, truth, "resize")[0] if prediction is not None and any(prediction.masks) else {}


def tiles(sample: Sample, truth: GroundTruth, chosen: Sequence[int], prediction: Prediction | None, width: int) -> list[dict[str, Any]]:
    """Chosen frames with the truth and one model's masks, and J and F of each; a failed prediction has no masks to judge."""
    failed = prediction is None or prediction.failed
    predicted = {} if failed else model_masks(prediction, truth)
    views = []
    for t in chosen:
        frame, entry, time = decode_frame(sample.frames[t], width), truth.evidence.get(t), truth.frame_times[t]
        true = None if entry is None else decode_entry(entry, truth.size)
        mask = decode_entry(predicted.get(t, EMPTY), truth.size) if truth.size and not failed else None
        note = "no prediction" if failed else "not annotated" if true is None else "J {}  F {}".format(*map(percent, jf(mask, true)))
        picture = overlay(frame, None if true is None else fit(true, frame), None if mask is None else fit(mask, frame))
        views.append({"uri": data_uri(picture), "time": f"{time:.1f} s", "note": note,
                      "evidence": any(start <= time <= end for start, end in truth.segments or ())})
    return views


def lane(name: str, kind: str, segments: Sequence[Segment] | None, length: float) -> dict[str, Any]:
    """One row of the time bar, in percent of the medium; a part beyond its end shows as a sliver there, the text has its times."""
    segments = segments or ()
    parts = [{"left": min(100 * start / length, 99.4), "width": max(100 * (min(end, length) - start) / length, 0.6)}
             for start, end in segments]
    text = ", ".join(f"{start:.1f} – {end:.1f} s" for start, end in segments)
    return {"name": name, "kind": kind, "parts": parts, "text": text or "none"}


def example_view(sample: Sample, example: Example, truth: GroundTruth, runs: Sequence[Run], args: ReportArguments) -> dict[str, Any]:
    """Everything the page shows about one example."""
    chosen = choose_frames(truth, len(sample.frames), args.frames)
    length = max(truth.duration_s, *truth.frame_times, *(end for _, end in truth.segments or ()), 0.1)
    lanes = [lane("truth", "truth", truth.segments, length)]
    models, picked = [], {}
    for number, run in enumerate(runs):
        prediction, row = run.predictions.get(truth.example_id), run.result["per_example"][truth.example_id]
        lanes.append(lane(run.name, f"model{number}", prediction and prediction.segments, length))
        answer = prediction.answer if prediction else None
        if answer is not None and example.options:
            picked.setdefault(map_option(answer, example.options), []).append(run.name)
        models.append({"name": run.name, "row": row, "answer": answer, "reply": prediction.reply if prediction else None,
                       "error": prediction.error if prediction else None, "tiles": tiles(sample, truth, chosen, prediction, args.width)})
    return {
        "id": truth.example_id, "question": example.question, "type": example.question_type, "answer": example.answer,
        "options": [{"letter": chr(65 + i), "text": text, "right": text == example.answer, "by": picked.get(i, [])}
                    for i, text in enumerate(example.options)],
        "lanes": lanes, "models": models,
        "right": bool(models[0]["row"]["correct"]), "baseline_right": bool(models[-1]["row"]["correct"]) if len(models) > 1 else None,
    }


def headline(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per metric: every model with its interval, the paired difference to the baseline, the trivial baseline."""
    card, change = runs[0].result["card"], {}
    if len(runs) > 1:
        change = differences(runs[0].result["per_example"], runs[1].result["per_example"], card["bootstrap"], card["seed"])
    return [{"metric": name, "values": [run.result["metrics"][name] for run in runs], "change": change.get(name),
             "trivial": runs[0].result["trivial"][name]} for name in METRICS]


def build_report(samples: Iterable[Sample], runs: Sequence[Run], args: ReportArguments) -> str:
    """HTML page of the scored examples of ``samples``, which are read one by one.

    Raises:
        DataError: a result file scores other examples than the samples hold.
    """
    ids = list(runs[0].result["per_example"])
    chosen = {ids[i] for i in np.linspace(0, len(ids) - 1, min(args.limit, len(ids))).round().astype(int)}
    views, found = [], set()
    for sample in samples:
        for example in scored_examples(sample):
            found.add(example.example_id)
            if example.example_id in chosen:
                (truth,) = from_samples([replace(sample, examples=(example,))])
                views.append(example_view(sample, example, truth, runs, args))
    for run in runs:
        stray = sorted(set(run.result["per_example"]) ^ found)
        if stray:
            raise DataError(f"the result of {run.name!r} and the shards hold different examples, for instance {stray[:5]}: "
                            "score against these shards")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=" and ".join(run.name for run in runs), runs=runs, rows=headline(runs), examples=views, total=len(ids), n_tiles=args.frames,
        colours={name: "rgb({}, {}, {})".format(*rgb) for name, rgb in COLOURS.items()})


def example_panel(samples: Iterable[Sample], run: Run, example_id: str, n_frames: int, width: int) -> Image.Image:
    """:func:`mask_panel` of one example. Raises :class:`DataError` when it does not exist or has no mask truth."""
    for sample in samples:
        for truth in from_samples([sample]):
            if truth.example_id == example_id and truth.evidence:
                predicted = model_masks(run.predictions.get(example_id), truth)
                chosen = choose_frames(truth, len(sample.frames), n_frames)
                frames = [decode_frame(sample.frames[t], width) for t in chosen]
                sides = [np.stack([fit(decode_entry(side.get(t, EMPTY), truth.size), f) for t, f in zip(chosen, frames)])
                         for side in (predicted, truth.evidence)]
                return mask_panel(frames, *sides, captions=[f"{truth.frame_times[t]:.1f} s" for t in chosen])
    raise DataError(f"panel_example={example_id!r} is not among the examples with masks in these shards")


def run_report(args: ReportArguments) -> None:
    """Write the page, and the panel where one is asked for.

    Raises:
        UniPixelError: files are missing, or do not belong together.
    """
    runs = [load_run(args.name, args.predictions, args.score)]
    if args.baseline_predictions:
        runs.append(load_run(args.baseline_name, args.baseline_predictions, args.baseline_score))
    page = build_report(read_samples(args.shards), runs, args)
    Path(args.out).write_text(page, encoding="utf-8")
    print(f"wrote {args.out} ({len(page) / 1e6:.1f} MB)")
    if args.panel:
        example_panel(read_samples(args.shards), runs[0], args.panel_example, args.frames, args.width).save(args.panel)
        print(f"wrote {args.panel}")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel report``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    try:
        run_report(parse([ReportArguments], argv, prog="unipixel report")[0])
    except UniPixelError as error:
        print(f"unipixel report: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
