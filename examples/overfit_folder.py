"""Overfit a toy model on your own annotated videos, then score it on them: the end-to-end check of a dataset before real training.

    python examples/overfit_folder.py --data DIR --out work_dirs/overfit

``DIR`` is in the ST-Evidence-Instruct layout (``st_evidence.csv``, ``masks/``, ``frames_6fps/`` or ``videos/``). The training split must
come back almost perfectly (a model that cannot memorise a handful of clips has broken data); the test split is scored for reference only,
a toy model that has seen a few clips knows nothing about others.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from benchmarks import report, score
from data_tools.pack import main as pack
from launch.quickstart import VERSIONS, Stages, check, train
from launch.start import RECIPES
from unipixel.config import parse, read_recipe, setting
from unipixel.data import template
from unipixel.data.shards import ShardDataset
from unipixel.errors import EXIT_USER_ERROR, ConfigError, UniPixelError
from unipixel.infer.predict import PredictSettings
from unipixel.infer.predict import run as predict
from unipixel.model.tiny import TinySettings, write_tiny_base


@dataclass(kw_only=True)
class OverfitSettings:
    data: str = setting("", "folder in the ST-Evidence-Instruct layout")
    out: str = setting("work_dirs/overfit", "folder for everything that is made")
    steps: int = setting(500, "optimizer steps")
    processes: int = setting(2, "training processes")
    splits: list[str] = setting(["train", "test"], "splits to pack, predict and score; the first one trains")

    def __post_init__(self):
        if not self.data:
            raise ConfigError("--data is empty: name a folder in the ST-Evidence-Instruct layout")


def texts(shards: Path) -> list[str]:
    """Everything the model reads or writes in a split, for its tokenizer."""
    dataset, settings = ShardDataset(shards), template.TemplateSettings(answer_style="text", paraphrase=False, show_options=False)
    samples = (dataset.sample(i) for i in range(len(dataset)))
    return [template.render(sample, settings).text for sample in samples] * 4


def run(settings: OverfitSettings) -> dict[str, dict]:
    """Pack, train, predict, score; returns the result of each split."""
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder)
    shards = {split: folder / "shards" / split for split in settings.splits}
    for split, out in shards.items():
        stages.run(f"pack_{split}", lambda split=split, out=out: check(
            pack(["--source", "st_evidence", "--input", settings.data, "--split", split, "--out", str(out)]), "packing"))
    training = shards[settings.splits[0]]
    stages.run("base", lambda: write_tiny_base(folder / "base", texts(training), TinySettings(width=96, layers=3)))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({
        **read_recipe(RECIPES / "quickstart.yaml"), "backbone": str((folder / "base").resolve()), "shards": [str(training.resolve())],
        "max_steps": settings.steps, "sam2_image_size": 128, "mask_loss_size": 32, "max_pixels": 112 * 112, "max_objects": 4,
        "frame_sampling": "random", "mask_share": 1.0, "mask_loss_weight": 1.0, "sam2_prompting": "independent",
        "sam2_encoder_lr": 1e-3, "sam2_decoder_lr": 1e-3, "learning_rate": 1e-3,
        "examples_per_medium": 7, "per_device_train_batch_size": 2, "save_steps": max(1, settings.steps // 2)}))
    stages.run("train", lambda: train(recipe, folder / "trained", settings.processes, kill=False))
    results = {}
    for split, out in shards.items():
        predictions = folder / f"predictions_{split}.jsonl"
        stages.run(f"predict_{split}", lambda out=out, predictions=predictions: predict(PredictSettings(
            checkpoint=str(folder / "trained"), shards=[str(out)], out=str(predictions), max_new_tokens=96)))
        print(f"--- {split} ---")
        results[split] = score.run(score.ScoreArguments(predictions=str(predictions), shards=[str(out)], out=str(folder / f"score_{split}.json")))
        stages.run(f"report_{split}", lambda split=split, out=out, predictions=predictions: report.run_report(report.ReportArguments(
            predictions=str(predictions), score=str(folder / f"score_{split}.json"), shards=[str(out)], out=str(folder / f"report_{split}.html"))))
    clips = clip_scores(results[settings.splits[0]])
    print("J of each training clip's evidence masks: " + ", ".join(f"{clip} {j:.3f}" for clip, j in clips.items()))
    headline = {split: {name: metric["value"] for name, metric in result["metrics"].items()} for split, result in results.items()}
    (folder / "overfit.json").write_text(json.dumps({
        "clip_J": clips, "metrics": headline, "settings": asdict(settings) | {"data": Path(settings.data).name, "out": ""},
        "seconds": stages.seconds, "versions": {name: version(name) for name in VERSIONS}}, indent=1) + "\n")
    return results


def clip_scores(result: dict) -> dict[str, float]:
    """Mean J per clip; an example's id is ``<clip>_<number>``."""
    per_clip: dict[str, list[float]] = {}
    for example_id, row in result["per_example"].items():
        if row["j"] is not None:
            per_clip.setdefault(example_id.rpartition("_")[0], []).append(row["j"])
    return {clip: sum(values) / len(values) for clip, values in sorted(per_clip.items())}


def main(argv: list[str] | None = None) -> int:
    try:
        run(parse([OverfitSettings], argv, prog="overfit_folder")[0])
    except UniPixelError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
