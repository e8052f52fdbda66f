"""Film question answering from videos to tables on real clips, by the scripts as a user runs them: four poolings, a toy model, every cell.

Each clip plays a film; for TVQA its pictures, at three per second, play a clip of a show. What the toy says means nothing: what is held is
that nothing is missing, that everything that is done stays, and that wrong input is named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from data_tools.pooling.operators import METHODS
from tests.command_server import CommandServer
from tests.tiny_run import ROOT, TINY
from unipixel.model.tiny import write_tiny_base

TOY = {"sam2_config": "sam2.yaml", "sam2_checkpoint": "sam2.pt", "sam2_image_size": 64, "quantize": "none", "num_frames": 4, "max_steps": 2,
       "gradient_accumulation_steps": 1, "bf16": False, "tf32": False, "dataloader_num_workers": 0, "report_to": "none", "disable_tqdm": True,
       "gradient_checkpointing": False, "deepspeed": None}
RUNS = {"base-qwen7b_59f_plus_keyframe": 4, "sft-qwen7b-interleaved-16f_59f_plus_keyframe": 16, "dpo-qwen7b-interleaved-16f_59f_plus_keyframe": 16,
        "tvqa_dpo_val5k_59f_uniform": 16}
SHORT_REPLIES = ("--", "--max_new_tokens", "6", "--bootstrap", "20", "--embed", "none")


class Place:
    """A working folder with the command on its path."""

    def __init__(self, folder: Path, server: CommandServer):
        self.folder, self.server = folder, server
        self.environment = {**os.environ, "PATH": f"{server.bin}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True)
        assert done.returncode == code, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout + done.stderr

    def script(self, name: str, *flags: str, code: int = 0, **environment: str) -> str:
        return self.run("bash", str(ROOT / "launch" / name), *flags, code=code, **environment)

    def cells(self) -> dict[str, list[Path]]:
        return {name: sorted((self.folder / "runs" / name).rglob("predictions.summary.json")) for name in RUNS}


def write_tvqa(folder: Path, real: Path) -> int:
    """The clips as two shows, with the questions of their films and answers of others as options; number of questions."""
    asked = [(path.stem, item) for path in sorted((real / "reasonvqa/annotations").glob("*.json")) for item in json.loads(path.read_text())]
    answers = list(dict.fromkeys(item["answer"] for _, item in asked))
    rows = []
    for number, (clip, item) in enumerate(asked):
        wrong = [answer for answer in answers if answer != item["answer"]][number % 4:][:4]
        options = [*wrong[:number % 5], item["answer"], *wrong[number % 5:]]
        rows.append({"qid": number, "vid_name": clip, "show_name": f"show {len(clip) % 2}", "q": item["question"], "answer_idx": number % 5,
                     "ts": "1.0-4.5", **{f"a{i}": option for i, option in enumerate(options)}})
    for clip in {clip for clip, _ in asked}:
        pictures = folder / "frames_hq" / "frames" / clip
        pictures.mkdir(parents=True)
        for number, picture in enumerate(sorted((real / "frames_6fps" / clip).glob("*.jpg"))[::2], 1):
            shutil.copy(picture, pictures / f"{number:05d}.jpg")
    shutil.copytree(real / "subtitles", folder / "tvqa_subtitles")
    (folder / "tvqa_qa_release").mkdir()
    (folder / "tvqa_qa_release/tvqa_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def write_toy(folder: Path, texts: list[str]) -> None:
    """Recipes that differ from the shipped ones in size alone."""
    write_tiny_base(folder / "base", texts * 4, TINY)
    for stage, more in (("sft", {"learning_rate": 1e-3}), ("dpo", {"global_batch": 1})):
        recipe = {"extends": str(ROOT / f"launch/recipes/{stage}_povqa.yaml"), "backbone": str(folder / "base"), **TOY, **more}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture(scope="module")
def place(shared_data, tmp_path_factory):
    """After all five scripts, in the order of the README that users know."""
    folder, real = tmp_path_factory.mktemp("films"), shared_data / "mini_real"
    shutil.copytree(real / "reasonvqa/annotations", folder / "data/annotations")
    items = [item for path in (folder / "data/annotations").glob("*.json") for item in json.loads(path.read_text())]
    write_toy(folder, [item[name] for item in items for name in ("question", "answer", "reasoning")])
    write_tvqa(folder / "input_data", real)
    with CommandServer(tmp_path_factory.mktemp("server")) as server:
        place = Place(folder, server)
        place.run("unipixel", "film", "prepare", "--videos", str(real / "videos"), "--subtitles", str(real / "subtitles"), "--questions",
                  "data/annotations", "--out", "data/out_preprocessed", "--size", "56x56", "--workers", "1")
        for method in METHODS:
            for part in ("train", "validation", "test"):
                place.run("unipixel", "pack", "--source", "reasonvqa", "--input", "data", "--split", part, "--set", f"pooling={method}",
                          "validation=1", "--out", f"shards/reasonvqa_{part}/{method}")
        place.script("run_sft.sh", CONFIG="sft.yaml")
        place.script("run_sft_eval.sh", *SHORT_REPLIES, CONFIG="sft.yaml")
        place.script("run_dpo.sh", CONFIG="dpo.yaml")
        place.script("run_dpo_eval.sh", *SHORT_REPLIES)
        place.tvqa_output = place.script("run_tvqa_eval.sh", *SHORT_REPLIES, COUNT="8")
        yield place


@pytest.mark.slow
def test_every_cell_is_there(place):
    assert {name: len(found) for name, found in place.cells().items()} == RUNS
    hashes, prompts = set(), set()
    for name, found in place.cells().items():
        for path in found:
            summary = json.loads(path.read_text())
            lines = [json.loads(line) for line in (path.parent / "predictions.jsonl").read_text().splitlines()]
            assert len(lines) == summary["runs"] == (8 if name.startswith("tvqa") else 3) and summary["errors"] == 0, path
            assert summary["adapter"] == (None if name.startswith("base") else path.parent.parent.name) and summary["method"] == path.parent.name
            assert all(line["frames_used"] and line["subtitle_segments"] and line["status"] in ("ok", "no_reply") for line in lines), path
            hashes |= {summary["split_hash"]} if not name.startswith("tvqa") else set()
            prompts.add(summary["prompt"]["sha256"])
    assert len(hashes) == len(prompts) == 1, "one division and one prompt in all evaluations"


@pytest.mark.slow
def test_models_differ_and_are_trained_as_the_recipes_say(place):
    settings = {stage: yaml.safe_load((place.folder / f"models/{stage}-qwen7b-interleaved-16f/weighted_average/settings.yaml").read_text())
                for stage in ("sft", "dpo")}
    assert settings["sft"]["prompt"] == settings["dpo"]["prompt"] == "film_interleaved" and settings["dpo"]["supervise"] == "answer"
    adapters = {path.read_bytes() for path in place.folder.glob("models/*/*/adapter_model.safetensors")}
    assert len(adapters) == 8, "four poolings, two stages"
    config = json.loads((place.folder / "models/sft-qwen7b-interleaved-16f/weighted_average/adapter_config.json").read_text())
    assert sum("visual.merger" in name for name in config["target_modules"]) == 2


@pytest.mark.slow
def test_the_grid_of_tvqa_is_complete(place):
    table = place.tvqa_output[place.tvqa_output.index("TVQA, dpo, Accuracy"):]
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.split()[:1] in (["WA"], ["WAE"], ["WAR"], ["BBLF"])}
    assert len(rows) == 4 and all(len(row) == 4 and "—" not in row for row in rows.values())
    assert (place.folder / "processed_tvqa/val_8_seed42.jsonl").read_text().count("\n") == 8


@pytest.mark.slow
def test_started_again_nothing_is_done_twice(place):
    stamps = {path: path.stat().st_mtime_ns for path in place.folder.glob("[mr][ou][dn]*s/**/*") if path.is_file()}
    for name in ("run_sft.sh", "run_dpo.sh"):
        assert place.script(name, CONFIG="sft.yaml").count("is complete") == 4
    assert place.script("run_sft_eval.sh", *SHORT_REPLIES, CONFIG="sft.yaml").count(": kept, ") == 20
    assert place.script("run_tvqa_eval.sh", *SHORT_REPLIES, COUNT="8").count(": kept, ") == 16
    assert stamps == {path: path.stat().st_mtime_ns for path in place.folder.glob("[mr][ou][dn]*s/**/*") if path.is_file()}


@pytest.mark.slow
def test_a_missing_method_is_named_and_everything_stays(place):
    before = place.cells()
    for name in ("run_sft.sh", "run_sft_eval.sh", "run_dpo_eval.sh"):
        assert "/median is not a folder" in place.script(name, METHODS="weighted_average median", code=2)
    said = place.run("unipixel", "film", "eval", "--models", "models/dpo-qwen7b-interleaved-16f", "--shards", "shards/reasonvqa_test", "--methods",
                     "WA", "median", "--out", "runs/other", code=2)
    assert "shards/reasonvqa_test/median is no folder" in said and place.cells() == before


@pytest.mark.slow
def test_tables_and_pages_read_the_runs(place):
    place.run("unipixel", "film", "tables", "--runs", "runs", "--out", "tables", "--permutations", "100", "--bootstrap", "20")
    place.run("unipixel", "film", "panels", "--runs", "runs", "--pictures", "data/out_preprocessed", "--out", "panels", "--n", "2")
    assert list((place.folder / "tables").iterdir()) and list((place.folder / "panels").rglob("*.html"))


@pytest.mark.slow
def test_two_processes_give_the_same_run(place):
    place.run("unipixel", "film", "eval", "--base", "sft.yaml", "--shards", "shards/reasonvqa_test", "--methods", "WA", "--workers", "2",
              "--out", "shared", *SHORT_REPLIES[1:], PYTHONPATH=str(ROOT))
    alone = place.folder / "runs/base-qwen7b_59f_plus_keyframe/weighted_average/predictions.jsonl"
    assert (place.folder / "shared/weighted_average/predictions.jsonl").read_bytes() == alone.read_bytes()
