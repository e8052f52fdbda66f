"""The two files of a run: a line per question, and the summary, under the names that POVQA's tools read, with ours beside them.

Times are seconds of the film. A question that could not be asked or answered is a line like any other: its status and error say why, its
predictions are null, and it scores 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.card import code_hash, versions
from benchmarks.film_runs.cells import PREDICTIONS, Cell
from benchmarks.film_runs.models import Context, Model
from benchmarks.film_runs.scoring import NAMES, Scored, means, metric_names
from benchmarks.result import summarise
from benchmarks.task import Task
from benchmarks.tasks.povqa import NO_FINAL_ANSWER
from unipixel.data import film_context
from unipixel.data.index import replace_file
from unipixel.data.template import letter
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample

DATASETS = {"reasonvqa": "ReasonVQA", "tvqa": "TVQA"}
POOLING = {"all": "all", "key_frame": "keyframe", "none": "none"}
"""Setting ``show_frames`` -> what POVQA calls pooling."""


def line(task: Task, sample: Sample, example: Example, scored: Scored, cell: Cell, context: Context) -> dict[str, Any]:
    """A question with what the model was shown, said and scored."""
    frames, text = context
    prediction = scored.prediction
    shown = None if prediction is None else prediction.shown
    context_fields = film_context.record(sample.medium, list(shown or ()), text)
    if shown is None:  # it was never shown anything
        context_fields |= {"frames_used": 0, "frame_times": [], "subtitle_segments": []}
    said = scored.said
    ours = {"example_id": example.example_id, "medium_id": sample.medium.medium_id, "adapter": cell.adapter,
            "status": status(prediction), "error": prediction.error if prediction else None,
            "reply": prediction.reply if prediction else None, "problems": list(said.problems) if said else [],
            "prompt": context_fields.pop("prompt"), **scored.values}
    make = _reasonvqa if task.name == "reasonvqa" else _tvqa
    return make(sample, example, scored) | {"pooling": POOLING[frames.show_frames], "method": cell.method} | context_fields | ours


def prompt_of(context: Context) -> dict[str, str] | None:
    """Name, version and hash of the wording; ``None`` for the plain prompt, which has no file."""
    return None if context[1].prompt == "plain" else film_context.prompt_card(context[1].prompt)


def status(prediction: Prediction | None) -> str:
    """``ok``, or why there is no answer; masks are not asked for."""
    return "missing" if prediction is None else prediction.status if prediction.failed else "ok"


def _reasonvqa(sample: Sample, example: Example, scored: Scored) -> dict[str, Any]:
    said, source = scored.said, example.source
    return {"movie": sample.medium.source.get("film"), "index": int(example.example_id.rpartition("_")[2]), "timestamp": source.get("timestamp"),
            "contextTimestamp": source.get("contextTimestamp"), "question": example.question, "gold_reasoning": example.rationale,
            "gold_answer": example.answer, "pred_reasoning": said and said.reasoning, "pred_answer": said and said.answer}


def _tvqa(sample: Sample, example: Example, scored: Scored) -> dict[str, Any]:
    """``pred_idx`` is null for a reply that names no option."""
    said, chosen, source, qid = scored.said, scored.chosen, sample.medium.source, example.example_id.removeprefix("q")
    return {"qid": int(qid) if qid.isdecimal() else qid, "show_name": source.get("show_name"), "vid_name": source.get("vid_name"),
            "ts": example.source.get("ts"), "question": example.question,
            "options": list(example.options), "gold_idx": example.options.index(example.answer), "gold_text": example.answer,
            "pred_reasoning": said and said.reasoning, "pred_answer_raw": said and said.answer, "pred_idx": chosen,
            "pred_letter": None if chosen is None else letter(chosen), "pred_text": None if chosen is None else example.options[chosen],
            "correct": bool(scored.values["accuracy"])}


def summary(task: Task, scored: Sequence[Scored], cell: Cell, model: Model, *, variant: str, split: Mapping[str, Any], bootstrap: int,
            seed: int, **more: Any) -> dict[str, Any]:
    """
    Args:
        split: ``split`` and ``split_hash`` of what was asked.
        more: ``trivial``, ``ceiling`` and whatever else a reader should know.
    """
    names = metric_names(task)
    rows = [{"values": {NAMES[name]: one.values[name] for name in names}} for one in scored]
    found = summarise(rows, {NAMES[name]: "examples" for name in names}, bootstrap, seed)
    states = Counter(status(one.prediction) for one in scored)
    problems = Counter(problem for one in scored if one.said for problem in one.said.problems)
    if task.name == "tvqa":
        problems["unmapped"] = sum(one.said is not None and one.chosen is None for one in scored)
    frames, text = model.context
    return {
        "runs": len(scored), "dataset": DATASETS[task.name], "pooling": POOLING[frames.show_frames], "method": cell.method,
        "max_frames": frames.num_frames, "max_segments": text.max_segments, "metrics": means(scored, task), "output_file": PREDICTIONS,
        "adapter": cell.adapter, "stage": model.stage, "variant": variant, "ci95": {name: metric["ci95"] for name, metric in found.items()},
        **more, "parse_failures": problems.pop(NO_FINAL_ANSWER, 0), "errors": sum(one.said is None for one in scored), "problems": dict(problems),
        "status": dict(sorted(states.items())), **split,
        "prompt": prompt_of(model.context),
        "context": {"frames": dataclasses.asdict(frames), "template": dataclasses.asdict(text)},
        "model": dict(model.content), "hashes": cell.hashes, "code": code_hash(),
        "versions": versions(("unipixel-train", "torch", "transformers", "peft", "sentence-transformers"))}


def write(path: Path, text: str) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write(path, "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in lines))
