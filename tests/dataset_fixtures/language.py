"""Small copies of the instruction, film and preference sets in the layouts of their releases. Each function writes one and returns what
was written, so that tests can compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.dataset_fixtures.common import write
from tests.packing import grey_video, jpeg

POOLING = "blend_blur_with_last_frame"


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def dialogue(*texts: str, first: int = 0) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[(i + first) % 2], "value": text} for i, text in enumerate(texts)]


def llava(root: Path) -> dict[str, bytes]:
    """Two rows about one picture, one about a video, text alone, and rows with each defect."""
    frames = {"coco/train2017/1.jpg": jpeg(1)}
    write(root / "llava_instruct/coco/train2017/1.jpg", frames["coco/train2017/1.jpg"])
    (root / "videogpt_plus").mkdir(parents=True)
    grey_video(root / "videogpt_plus/clip.mp4", 20, 10)
    image, video = {"image": "coco/train2017/1.jpg"}, {"video": "clip.mp4", "duration": 2.0}
    write(root / "llava_v1_5_mix665k_with_videogpt_plus_576k.json", [
        {"id": "1", **image, "conversations": dialogue("<image>\nWhat is it?", "Noise.", "Of what colour?\n<image>", "All.", "Why?", "Chance.",
                                                       "Sure?", "Yes.")},
        {"id": "v", **video, "conversations": dialogue("<video>\nWhat happens?", "It gets lighter.")},
        {"id": "1", **image, "conversations": dialogue("Name it.\n<image>", "Noise.")},
        {"id": "t", "conversations": dialogue("2 + 2?", "4.")},
        {"id": "g", "conversations": dialogue("Hello.", "1 + 1?", "2.", "And 3 + 3?", first=1)},
        {"id": "long", **video, "duration": 301, "conversations": dialogue("<video>\nx", "y")},
        {"id": "gone", "image": "ocr_vqa/2.jpg", "conversations": dialogue("<image>\nx", "y")},
        {"id": "mid", **image, "conversations": dialogue("Left <image> or right?", "y")},
        {"id": "nomedium", "conversations": dialogue("<image>\nx", "y")},
        {"id": "empty", "conversations": dialogue("x", " ")},
        {"id": "role", "conversations": [{"from": "system", "value": "x"}, *dialogue("x", "y")]},
        {"id": "twice", "conversations": [*dialogue("x"), *dialogue("y", "z")]},
        {"id": "up", "image": "../1.jpg", "conversations": dialogue("<image>\nx", "y")},
        "not an object"])
    return frames


def povqa_film(root: Path, film: str, items: Sequence[Mapping[str, Any]], *, pictures: Sequence[bytes], text: Sequence[tuple[float, float, str]],
               rate: float | None = 25.0, keys: Mapping[int, bytes] | None = None, wrapped: bool = False) -> None:
    """One film of POVQA's preprocessed release. ``keys``: index of an item -> its key frame."""
    write(root / "annotations" / f"{film}.json", {"qa": list(items)} if wrapped else list(items))
    folder = root / "out_preprocessed" / film
    for n, data in enumerate(pictures, 1):
        write(folder / POOLING / f"frame{n:05d}.jpg", data)
    segments = [{"text": said, "text_start_time_sec": start, "text_end_time_sec": end, "corresponding_chunks": []} for start, end, said in text]
    write(folder / f"metadata_text_centric_{POOLING}.json", segments)
    if rate is not None:
        write(folder / "run_summary.json", {"movie": film, "fps_mode": "seconds_window", "fps_used_or_native": rate, "chunk_seconds": 1.0})
    for item in items:
        if item["index"] in (keys or {}):
            write(folder / "KEY_FRAMES" / f"KEY_{item['timestamp'].replace(':', '-')}_{item['index']:04d}.jpg", keys[item["index"]])


def povqa_item(index: int, paused: str, context: str, **more: Any) -> dict[str, Any]:
    return {"timestamp": paused, "contextTimestamp": context, "question": f"What happens at {paused}?", "answer": f"Thing {index}.",
            "reasoning": f"Because of {index}.", "index": index} | more


def tvqa(root: Path) -> tuple[bytes, ...]:
    """Two clips (one with subtitles in latin-1, one without a frame folder) and one question per defect."""
    def row(qid: int, clip: str = "s01e01_seg01_clip_00", **more: Any) -> dict[str, Any]:
        options = {f"a{n}": f"option {n} of {qid}" for n in range(5)}
        return {"qid": qid, "vid_name": clip, "show_name": "The Big Bang Theory", "q": f"Question {qid}?", "answer_idx": 2, "ts": "0.5-1.25",
                **options} | more

    unlabelled = row(5)
    del unlabelled["answer_idx"]
    jsonl(root / "tvqa_qa_release/tvqa_val.jsonl", [
        row(1), row(2, answer_idx="4", ts="nan-nan"), row(3, a1="same", a3="same"), row(4, answer_idx=5), unlabelled, row(6, ts="a-b"),
        row(7, "castle_s01e01_seg02_clip_01"), row(8, ts="99.0-100.0"), row(9, "../x"),
        row(10, answer_idx=-1), row(11, answer_idx="two")])
    frames = tuple(jpeg(n) for n in range(7))
    for n, data in enumerate(frames, 1):
        write(root / f"frames_hq/bbt_frames/s01e01_seg01_clip_00/{n:05d}.jpg", data)
    srt = "1\n00:00:00,200 --> 00:00:01,000\n(Penny:)A café.\n\n2\n00:00:01,500 --> 00:00:02,000\n<i>Yes.</i>\n"
    write(root / "tvqa_subtitles/s01e01_seg01_clip_00.srt", srt.encode("latin-1"))
    return frames


def videopasta(root: Path) -> None:
    """Three pairs on one question (one candidate repeats its id), one pair per failure mode, and rows with each defect."""
    (root / "videos").mkdir(parents=True)
    grey_video(root / "videos/v_a.mp4", 12, 6)
    grey_video(root / "videos/v_b.mkv", 12, 6)

    def row(pair_id: str, video: str, mode: str, **more: Any) -> dict[str, Any]:
        return {"id": pair_id, "video": video, "question": f"What about {mode}?", "preferred": "It is so.", "rejected": f"It is not so ({pair_id}).",
                "failure_mode": mode, "candidate_no": 0} | more

    jsonl(root / "videopasta_7k.jsonl", [
        row("p1", "v_a.mp4", "spatial"), row("p2", "v_a.mp4", "spatial", candidate_no=1), row("p2", "v_a.mp4", "spatial", rejected="Other."),
        row("p4", "v_b", "Temporal Incoherence"), row("p5", "v_b", "cross-frame"), row("p6", "v_b", ""), row("p7", "v_b", "colour"),
        row("p8", "v_gone.mp4", "spatial"), row("p9", "v_a.mp4", "temporal", rejected="It is so. "), row("p10", "v_a.mp4", "temporal", prompt="two?"),
        row("p11", "v_a.mp4", "temporal", rejected=""),
        row("p12", "v_a.mp4", "temporal", split=None), row("p13", "v_a.mp4", "temporal", split="val")])


def llava_hound(root: Path) -> dict[str, list[bytes]]:
    """Frame folders as released (``c01_%04d.jpeg``), more than nine frames so that the order of names matters."""
    frames = {name: [jpeg(seed + n) for n in range(11)] for seed, name in ((0, "activitynet_v_x"), (50, "webvid_1"))}
    for name, pictures in frames.items():
        for n, data in enumerate(pictures, 1):
            write(root / "videos" / name / f"c01_{n}.jpeg", data)

    def row(pair_id: str, video: str, **more: Any) -> dict[str, Any]:
        return {"id": pair_id, "video": video, "prompt": "<video>\nWho sings?", "answer": "A woman sings.", "chosen": "A woman.",
                "rejected": "A man.", "chosen_score": 4, "rejected_score": 2} | more

    jsonl(root / "sft_dpo_17k.jsonl", [row("x_1", "activitynet_v_x"), row("x_2", "activitynet_v_x", prompt="When?\n<video>", answer=""),
                                       row("y_1", "webvid_1"), row("y_2", "webvid_1", chosen_score=2),
                                       row("y_3", "webvid_1", rejected_score=None)])
    return frames
