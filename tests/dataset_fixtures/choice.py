"""Small examples of multiple-choice benchmarks and of VideoRefer-Bench in the layouts in which they are released."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.dataset_fixtures.common import blob, frames, rle, write
from tests.dataset_fixtures.video import video_file
from tests.packing import jpeg


def mvbench(root: Path) -> None:
    """Two tasks: one about a part of its video, one about folders of pictures at 3 per second; the other 18 are absent."""
    video_file(root / "video/star/Charades_v1_480/a.mp4", 48, 12)
    frames(root / "video/tvqa/frames_fps3_hq/clip", [f"{t:05d}.jpg" for t in range(1, 10)], 2)
    write(root / "json/action_sequence.json", [
        {"video": "a.mp4", "question": "What happened?", "candidates": ["A jump", "A fall"], "answer": "A fall", "start": 1.0, "end": 2.5},
        {"video": "a.mp4", "question": "And then?", "candidates": ["A jump", "A fall"], "answer": "A jump", "start": 1.0, "end": 2.5},
        {"video": "a.mp4", "question": "Late?", "candidates": ["Yes", "No"], "answer": "maybe", "start": 3.0, "end": 3.5}])
    write(root / "json/episodic_reasoning.json", [
        {"video": "clip", "question": "Why?", "candidates": ["B", "C"], "answer": "C", "start": 0.0, "end": 1.0}])


def videomme(root: Path) -> None:
    video_file(root / "data/xyz.mp4", 36, 12)
    write(root / "subtitle/xyz.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    rows = [{"video_id": "001", "duration": "short", "domain": "Sports", "sub_category": "Golf", "url": "u", "videoID": "xyz",
             "question_id": f"001-{n}", "task_type": "Counting", "question": "How many?", "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
             "answer": letter} for n, letter in enumerate("BX", 1)]
    (root / "videomme").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "videomme/test-00000-of-00001.parquet")


def videorefer_bench(root: Path) -> dict[str, np.ndarray]:
    """One folder of 6 pictures. Q: an object said as <object1>, one said as <region>, and a row with too many masks. D: one caption."""
    frames(root / "v", [f"{t:05d}.jpg" for t in range(6)], 4)
    masks = {"q0": np.stack([blob(70 + t) for t in range(3)]), "q1": np.stack([blob(80)]), "d0": np.stack([blob(90), blob(91)])}

    def row(name: str, numbers: tuple[int, ...], copies: int = 1, **more) -> dict:
        annotation = [{str(n): {"segmentation": rle(mask)} for n, mask in zip(numbers, masks[name])}] * copies
        return {"id": name, "video": "v", "frame_idx": str(numbers[0]), "annotation": annotation, **more}

    options = ["(A) It runs", "(B) It sleeps"]
    write(root / "VideoRefer-Bench-Q.json", [
        row("q0", (1, 3, 5), Question="What does <object1><region> do?", type="Basic", options=options, Answer=options[1]),
        row("q1", (2,), Question="What is <region>?", type="Future", options=options, Answer=options[0]),
        row("q1", (2,), 2, Question="What is <region>?", type="Future", options=options, Answer=options[0])])
    write(root / "VideoRefer-Bench-D.json", [row("d0", (0, 4), caption="A red ball that rolls.")])
    return masks


def st_evidence_mcq(root: Path, columns: str = "new") -> None:
    """Entry e1 in all three parts, e2 with its answer as text and spatial options in the older form, e3 without a video."""
    frames(root / "frames_6fps/v1", [f"frame_{t:04d}.jpg" for t in range(4)])
    video, options = ("video_path", "candidates") if columns == "new" else ("video", "options")
    with open(root / "st_evidence_mcq.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["entry_id", video, "question", options, "answer", "video_id"])
        for entry, clip, answer in (("e1", "v1", "B"), ("e2", "v1", "a box"), ("e3", "v9", "A")):
            writer.writerow([entry, f"{clip}.mp4", "What moves?", "['a box', 'a cat', 'a dog', 'a car', 'no one']", answer, clip])
    lists = [[[0.0, 0.2]], [[0.3, 0.5]], [[0.1, 0.2], [0.4, 0.5]], [[0.5, 0.6]]]
    write(root / "temp_options.json", {"e1": {"question": "What moves?", "time_evidence_options": lists, "correct_answer": "C",
                                              "ground_truth_segments": lists[2]}})
    pictures = {name: f"mask_options/{name}.jpg" for name in ("gt", "d1", "d2", "d3")}
    for n, path in enumerate(pictures.values()):
        write(root / path, jpeg(n))
    write(root / "mask_options.json", {
        "e1": {"question": "What moves?", **pictures, "options": ["d1", "gt", "d3", "d2"], "answer": 1},
        "e2": {"question": "What moves?", **pictures, "mcq_options": ["gt", "d1", "d3", "d2"], "correct_answer": "A"}})
