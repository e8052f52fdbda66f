"""``unipixel quickstart``: the whole job on a toy, in minutes: world -> shards -> training with a kill and a resume -> predictions -> scores ->
preference training.

Every stage is a command of the toolkit with a recipe; this module only calls them in order, kills the training once, and prints the
table. Finished stages are kept: a second start continues where the first one ended.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
import yaml
from tabulate import tabulate

from benchmarks import report, score
from data_tools.pack import main as pack
from data_tools.preference.evidence import main as evidence_pairs
from data_tools.synth import SynthConfig, corpus, write_world
from launch.start import RECIPES
from unipixel.config import parse, read_recipe, setting
from unipixel.data.template import format_segments
from unipixel.errors import EXIT_USER_ERROR, DataError, UniPixelError
from unipixel.infer.predict import PredictSettings
from unipixel.infer.predict import run as predict
from unipixel.infer.prefer import PreferSettings
from unipixel.infer.prefer import run as prefer
from unipixel.train import checkpoints

log = logging.getLogger(__name__)
WORLD = SynthConfig(width=96, height=72, fps="2", duration_s=4.0, time_step_s=0.5, event_window_s=1.0, min_radius=14, max_radius=18, max_objects=2,
                    colours=["red", "green", "blue", "yellow", "purple"], shapes=["circle"], textures=["plain", "stripes", "dots"],
                    question_types=["what", "when", "count"], refers_per_clip=0, pairs_per_question=0)
"""A small, clear world: what a model of a million parameters can learn in minutes on two CPU cores. One shape, because telling shapes
apart takes such a model several times longer than telling colours apart."""
METRICS = ("accuracy", "mIoU", "TIoU@0.5", "mIoP", "J", "F", "J&F", "joint@0.5")
VERSIONS = ("torch", "transformers", "deepspeed", "peft", "sam2", "webdataset", "numpy")


@dataclass(kw_only=True)
class QuickstartSettings:
    """Size of the run; the defaults are what the documentation reports."""

    out: str = setting("work_dirs/quickstart", "folder for everything that is made")
    train_clips: int = setting(2400, "synthetic clips to train on")
    test_clips: int = setting(40, "held-out clips to score")
    steps: int = setting(1200, "optimizer steps")
    pair_clips: int = setting(400, "clips whose preference pairs train, of the training clips")
    pair_steps: int = setting(60, "optimizer steps of preference training")
    kill: bool = setting(True, "kill the training with SIGKILL after its first checkpoint and resume it")
    processes: int = setting(0, "training processes; 0: one per GPU, or two without a GPU")


@dataclass
class Stages:
    """Runs each stage once, prints its time, and remembers both."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], object]) -> None:
        marker = self.folder / ".stages" / name
        if marker.is_file():
            self.seconds[name] = float(marker.read_text())
            print(f"[{name}] done before, in {self.seconds[name]:.0f} s")
            return
        print(f"[{name}]", flush=True)
        started = time.perf_counter()
        work()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(str(self.seconds[name]))
        print(f"[{name}] {self.seconds[name]:.0f} s", flush=True)


def check(code: int, what: str) -> None:
    if code:
        raise DataError(f"{what} ended with exit code {code}; its own message stands above")


def make_base(out: Path) -> None:
    """Toy model with random weights and its own tokenizer."""
    from unipixel.model.tiny import TinySettings, write_tiny_base  # noqa: PLC0415  (imports the whole model stack)

    tenths = [format_segments([(a / 10, b / 10)]) for a in range(0, 40, 5) for b in range(a + 5, 45, 5)]
    write_tiny_base(out, [*corpus(WORLD, 200), *tenths], TinySettings(width=128, layers=3, vision_width=96))


def write_untrained(recipe: Path, out: Path) -> None:
    """The model exactly as training starts from it, as a checkpoint that can predict."""
    from unipixel.train.sft import SETTINGS, save_untrained  # noqa: PLC0415

    save_untrained(*parse(SETTINGS, ["--config", str(recipe), "--output_dir", str(out)]))


def train(recipe: Path, out: Path, processes: int, kill: bool, kind: str = "sft") -> None:
    """Training in ``processes`` processes with DeepSpeed; killed once on the way, when asked, and resumed by starting it again."""
    command = [sys.executable, "-m", "launch.cli", "train", kind, "--nproc", str(processes), "--config", str(recipe), "--output_dir", str(out)]
    if kill and not checkpoints.checkpoints(out):
        kill_after_checkpoint(command, out)
    check(subprocess.run(command, check=False, env=own_environment()).returncode, "training")


def own_environment() -> dict[str, str]:
    """This process's environment without the variables of a launcher: the training starts its own processes."""
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in launcher}


def kill_after_checkpoint(command: list[str], out: Path) -> None:
    """Start ``command`` and SIGKILL it and all its workers once a checkpoint is complete."""
    process = subprocess.Popen(command, start_new_session=True, env=own_environment())
    try:
        while process.poll() is None and checkpoints.newest_complete(out)[0] is None:
            time.sleep(0.2)
        if process.poll() is not None:
            check(process.returncode or 1, "training, before its first checkpoint,")
    finally:
        for worker in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            worker.send_signal(signal.SIGKILL)
        process.kill()
        process.wait()
    print(f"killed the training after {checkpoints.newest_complete(out)[0].name}; starting it again", flush=True)


def align(folder: Path, base: Path, shards: dict[str, Path], stages: Stages, settings: QuickstartSettings, processes: int) -> None:
    """Preference training from the trained model, and how often held-out pairs are told apart before and after."""
    for split, limit in (("train", settings.pair_clips), ("test", 0)):
        stages.run(f"pairs_{split}", lambda split=split, limit=limit: check(evidence_pairs(
            ["--shards", str(shards[split]), "--out", str(folder / "pairs" / split), "--split", split, "--modes", "swapped", "--max_tiou", "0.7",
             "--limit", str(limit)]), "making pairs"))
    recipe = folder / "recipe_dpo.yaml"
    recipe.write_text(yaml.safe_dump(read_recipe(RECIPES / "quickstart_dpo.yaml") | {
        "backbone": str(base.resolve()), "init_from": str((folder / "trained").resolve()), "shards": [str((folder / "pairs/train").resolve())],
        "max_steps": settings.pair_steps, "save_steps": settings.pair_steps}))
    stages.run("align", lambda: train(recipe, folder / "aligned", processes, kill=False, kind="dpo"))
    for name, reference in (("trained", ""), ("aligned", str(folder / "trained"))):
        stages.run(f"preferences_{name}", lambda name=name, reference=reference: prefer(PreferSettings(
            checkpoint=str(folder / name), reference=reference, shards=[str(folder / "pairs/test")], out=str(folder / name / "accuracy.json"))))


def median_example(score_file: Path) -> str:
    """The example the picture shows: a right answer with the median J&F among right ones, not the prettiest one."""
    rows = json.loads(score_file.read_text())["per_example"]
    drawn = {example_id: row for example_id, row in rows.items() if row["jf"] is not None}
    right = {example_id: row for example_id, row in drawn.items() if row["correct"]} or drawn
    found = sorted((row["jf"], example_id) for example_id, row in right.items())
    return found[len(found) // 2][1]


def summary(folder: Path, stages: Stages, settings: QuickstartSettings) -> dict:
    """Result of the run as plain data; also the rows of the printed table."""
    results = {name: json.loads((folder / name / "score.json").read_text()) for name in ("untrained", "trained")}
    rows = [{"metric": metric, "trivial": results["trained"]["trivial"][metric],
             **{name: result["metrics"][metric]["value"] for name, result in results.items()}, "ci95": results["trained"]["metrics"][metric]["ci95"]}
            for metric in METRICS]
    preferences = json.loads((folder / "aligned" / "accuracy.json").read_text())["accuracy"]
    before = json.loads((folder / "trained" / "accuracy.json").read_text())["accuracy"]
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    return {"rows": rows, "examples": results["trained"]["n"],
            "preferences": {mode: {"pairs": row["pairs"], "before": before[mode]["plain"], "after": row["plain"], "reward": row["reward"]}
                            for mode, row in preferences.items()}, "seconds": stages.seconds, "total_seconds": round(sum(stages.seconds.values()), 1),
            "largest_process_gib": round(peak, 2), "settings": asdict(settings),
            "machine": {"cores": os.cpu_count(), "gpus": torch.cuda.device_count(), "python": platform.python_version()},
            "versions": {name: version(name) for name in VERSIONS}}


def print_table(result: dict) -> None:
    def percent(value):
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [(r["metric"], percent(r["trivial"]), percent(r["untrained"]), percent(r["trained"]),
             "–" if r["ci95"] is None else " – ".join(percent(v) for v in r["ci95"])) for r in result["rows"]]
    print(tabulate(rows, headers=("held-out videos, %", "trivial", "untrained", "trained", "95 % interval"), disable_numparse=True,
                   colalign=("left", "right", "right", "right", "right")))
    print("trivial: a random option, the whole clip as segment, no mask")
    held_out = result["preferences"]["all"]
    print(f"held-out preference pairs ({held_out['pairs']}, right segments against those of other questions): right side preferred "
          f"{percent(held_out['before'])} % before preference training, {percent(held_out['after'])} % after; it gained more in "
          f"{percent(held_out['reward'])} %")


def run(settings: QuickstartSettings) -> dict:
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder)
    processes = settings.processes or torch.cuda.device_count() or 2
    shards = {split: folder / "shards" / split for split in ("train", "test")}
    recipe, base = folder / "recipe.yaml", folder / "base"

    stages.run("world", lambda: write_world(folder / "world", WORLD, {"train": settings.train_clips, "test": settings.test_clips}))
    for split, out in shards.items():
        stages.run(f"pack_{split}", lambda split=split, out=out: check(
            pack(["--source", "synth", "--input", str(folder / "world"), "--split", split, "--out", str(out)]), "packing"))
    stages.run("base", lambda: make_base(base))
    changes = {"backbone": str(base.resolve()), "shards": [str(shards["train"].resolve())], "max_steps": settings.steps,
               "save_steps": max(1, settings.steps // 6)}
    recipe.write_text(yaml.safe_dump(read_recipe(RECIPES / "quickstart.yaml") | changes))
    stages.run("train", lambda: train(recipe, folder / "trained", processes, settings.kill))
    stages.run("untrained", lambda: write_untrained(recipe, folder / "untrained"))
    for name in ("untrained", "trained"):
        out = folder / name
        stages.run(f"predict_{name}", lambda out=out: predict(PredictSettings(
            checkpoint=str(out), shards=[str(shards["test"])], out=str(out / "predictions.jsonl"), max_new_tokens=64, batch_size=32)))
        stages.run(f"score_{name}", lambda out=out: score.run(score.ScoreArguments(
            predictions=str(out / "predictions.jsonl"), shards=[str(shards["test"])], out=str(out / "score.json"))))
    align(folder, base, shards, stages, settings, processes)
    stages.run("report", lambda: report.run_report(report.ReportArguments(
        predictions=str(folder / "trained/predictions.jsonl"), score=str(folder / "trained/score.json"), shards=[str(shards["test"])],
        baseline_predictions=str(folder / "untrained/predictions.jsonl"), baseline_score=str(folder / "untrained/score.json"),
        out=str(folder / "report.html"), limit=60, panel=str(folder / "panel.png"), panel_example=median_example(folder / "trained/score.json"))))
    result = summary(folder, stages, settings)
    score.write_json(folder / "quickstart.json", result)
    print_table(result)
    print(f"{result['total_seconds']:.0f} s in all, largest process {result['largest_process_gib']:.1f} GiB; "
          f"table: {folder / 'quickstart.json'}, report: {folder / 'report.html'}, TensorBoard: {folder / 'trained'}")
    return result


def main(argv: list[str] | None = None) -> int:
    try:
        (settings,) = parse([QuickstartSettings], argv, prog="unipixel quickstart")
        if shutil.disk_usage(Path(settings.out).absolute().anchor).free < 2 << 30:
            raise DataError("less than 2 GiB of disk are free; the quickstart needs about 1 GiB")
        run(settings)
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
