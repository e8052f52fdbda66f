"""A folder of made-up runs: base, SFT and DPO adapters over pooling methods, each with items and the summary of their means."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from data_tools.pooling.operators import full_name

BBLF, WA, WAE, WAR = METHODS = tuple(map(full_name, ("BBLF", "WA", "WAE", "WAR")))
FIELDS = {"EM": "em", "F1": "f1", "BLEU1": "bleu1", "BLEU4_BP": "bleu4", "ROUGE_L": "rouge_l", "ROUGE_L_Reasoning": "rouge_l_reasoning"}
LIFT = {"base": 0.0, "sft": 0.3, "dpo": 0.35}
FOLDERS = {"base": "base-qwen7b_59f_plus_keyframe", "sft": "sft-qwen7b-interleaved-16f_59f_plus_keyframe",
           "dpo": "dpo-qwen7b-interleaved-16f_59f_plus_keyframe", "tvqa": "tvqa_dpo_val5k_59f_uniform"}
Scores = Callable[[int], Mapping[str, float]]


def film_item(number: int, method: str, scores: Mapping[str, float], **facts: Any) -> dict[str, Any]:
    """An item of ReasonVQA; the odd numbers are of the second film."""
    film, index = f"film_{'ab'[number % 2]}", number // 2
    paused = 20 + index
    return {"example_id": f"{film}_{index}", "movie": film, "index": index, "timestamp": f"00:00:{paused:02d}",
            "contextTimestamp": "00:00:02 - 00:01:02", "question": f"Why {number}?", "gold_reasoning": "He saw it.",
            "gold_answer": f"Because {number}.", "pred_reasoning": "I saw it.", "pred_answer": f"Because {number}.", "pooling": "all",
            "method": method, "frames_used": 4, "frame_times": [2.0, 8.0, 12.0, paused + 0.001],
            "subtitle_segments": [{"start": 9.0, "end": 11.0, "text": "Look <b>there</b>!"}],
            "status": "ok", "error": None, "problems": [], **scores, **facts}


def tvqa_item(number: int, method: str, chosen: int | None, **facts: Any) -> dict[str, Any]:
    options = [f"Option {letter}" for letter in "ABCDE"]
    letter = None if chosen is None else "ABCDE"[chosen]
    return {"example_id": f"q{number}", "qid": number, "show_name": f"Show {number % 2}", "vid_name": f"clip_{number}", "ts": "3.0-7.5",
            "question": f"What {number}?", "options": options, "gold_idx": number % 5, "gold_text": options[number % 5], "pred_reasoning": "Because.",
            "pred_answer_raw": letter or "no idea", "pred_idx": chosen, "pred_letter": letter,
            "pred_text": None if chosen is None else options[chosen], "correct": chosen == number % 5, "method": method, "frames_used": 2,
            "frame_times": [1.0, 5.0], "subtitle_segments": [{"start": 1.0, "end": 2.0, "text": "Hi."}], "status": "ok", "error": None,
            "problems": [], "f1": float(chosen == number % 5), **facts}


def random_scores(*seed: Any, lift: float = 0.0) -> Scores:
    """Scores of item ``number`` that any process gives alike."""
    def scores(number: int) -> dict[str, float]:
        rng = random.Random(repr((seed, number)))
        return {field: round(min(1.0, lift + 0.4 * rng.random()), 3) if field != "em" else float(rng.random() < lift) for field in FIELDS.values()}
    return scores


def write_run(folder: Path, items: Sequence[Mapping[str, Any]], *, method: str, stage: str, adapter: str | None = None, dataset: str = "ReasonVQA",
              variant: str = "full", name: str = "predictions", **facts: Any) -> Path:
    """One leaf of the tree; returns its summary."""
    fields = FIELDS | {"Accuracy": "correct"} if dataset == "TVQA" else FIELDS
    metrics = {metric: fmean(float(item[field]) for item in items) for metric, field in fields.items() if all(field in item for item in items)}
    summary = {"runs": len(items), "dataset": dataset, "pooling": "all", "method": method, "max_frames": 59, "max_segments": 2048,
               "metrics": metrics | {"EmbedCos": None}, "output_file": str(folder / f"{name}.jsonl"), "adapter": adapter, "stage": stage,
               "variant": variant, "ci95": {metric: [value - 0.05, value + 0.05] for metric, value in metrics.items()},
               "trivial": {"question": dict.fromkeys(metrics, 0.25)}, "ceiling": dict.fromkeys(metrics, 1.0), "split_hash": "abcd", "errors": 0,
               "parse_failures": 0} | facts
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / f"{name}.summary.json").write_text(json.dumps(summary))
    return folder / f"{name}.summary.json"


def write_cell(root: Path, stage: str, trained: str, evaluated: str, *, n: int = 12, variant: str = "full", scores: Scores | None = None,
               run: str = "", **facts: Any) -> Path:
    """A ReasonVQA leaf in its place."""
    folder = root / (run or FOLDERS[stage] + ("" if variant == "full" else f"_{variant}")) / trained / evaluated
    scores = scores or random_scores(stage, trained, evaluated, variant, lift=LIFT[stage])
    return write_run(folder, [film_item(i, evaluated, scores(i)) for i in range(n)], method=evaluated, stage=stage, adapter=trained or None,
                     variant=variant, **facts)


def write_tree(root: Path, methods: Sequence[str] = METHODS, n: int = 12) -> Path:
    """Base and SFT and DPO adapters of every method, evaluated on every method; TVQA after DPO; two ablations of one adapter."""
    for evaluated in methods:
        write_cell(root, "base", "", evaluated, n=n)
        for trained in methods:
            for stage in ("sft", "dpo"):
                write_cell(root, stage, trained, evaluated, n=n)
            rng = random.Random(repr((trained, evaluated)))
            write_run(root / FOLDERS["tvqa"] / trained / evaluated, [tvqa_item(i, evaluated, rng.randrange(5)) for i in range(n)], method=evaluated,
                      stage="dpo", adapter=trained, dataset="TVQA", trivial={"longest_option": {"Accuracy": 0.2}}, ceiling={"Accuracy": 1.0})
    for variant in ("keyframe_only", "text_only"):
        write_cell(root, "sft", methods[0], methods[0], n=n, variant=variant)
    return root


def write_pictures(root: Path, film: str, methods: Sequence[str] = METHODS, seconds: int = 70, keys: Sequence[str] = (), texts: str = "film") -> Path:
    """A prepared film of one picture per second and method; the grey of a picture is its second, its colour the method."""
    for place, method in enumerate(methods):
        (root / film / method).mkdir(parents=True, exist_ok=True)
        for second in range(seconds):
            pixels = np.full((24, 24, 3), second, np.uint8)
            pixels[:8] = np.eye(4, 3, dtype=np.uint8)[place] * 200
            Image.fromarray(pixels).save(root / film / method / f"frame{second + 1:05d}.jpg")
    for name in keys:
        (root / film / "KEY_FRAMES").mkdir(exist_ok=True)
        Image.fromarray(np.full((24, 24, 3), 255, np.uint8)).save(root / film / "KEY_FRAMES" / f"{name}.jpg")
    summary = {"movie": film, "fps_mode": "seconds_window", "chunk_clock": "presentation", "chunk_seconds": 1.0, "total_chunks": seconds}
    (root / film / "run_summary.json").write_text(json.dumps(summary))
    cues = [("", 0.0, 3.0), ("Hello <i>you</i>.", 3.0, 5.0), ("", 5.0, 6.5), ("Go!", 6.5, 7.0), ("", 7.0, float(seconds))]
    table = [{"text": text, "text_start_time_sec": start, "text_end_time_sec": end, "corresponding_chunks": []} for text, start, end in cues]
    (root / film / f"metadata_{'tvqa_' if texts == 'tvqa' else ''}text_centric.json").write_text(json.dumps(table))
    return root
