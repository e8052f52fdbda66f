"""``unipixel film eval`` with models that answer from a table: folders, records, resuming, refusals, baselines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.film_report.runs import read_runs
from benchmarks.film_runs import command
from benchmarks.film_runs.command import main
from tests.film_models import METHODS, film_shards, models, trained  # noqa: F401 - a fixture
from unipixel.errors import EXIT_USER_ERROR, SampleError

BBLF, WA = METHODS
LINE = {"movie", "index", "timestamp", "contextTimestamp", "question", "gold_reasoning", "gold_answer", "pred_reasoning", "pred_answer", "pooling",
        "method", "frames_used", "frame_times", "subtitle_segments", "example_id", "status", "error", "medium_id", "prompt", "adapter", "f1"}
RIGHT = "Reasoning: Because of 0.\nFinal Answer: the man buries the gold under the grave"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return film_shards(tmp_path_factory.mktemp("films"))


@pytest.fixture
def evaluate(shards, tmp_path):
    """``evaluate(flags)`` of two trained models over two methods -> exit code."""
    for name in METHODS:
        trained(tmp_path / "models" / name)

    def run(*flags: str, out: str = "runs/sft-x_59f", **changes: str) -> int:
        given = {"models": str(tmp_path / "models"), "shards": str(shards / "test"), "out": str(tmp_path / out)} | changes
        return main([*(word for name, value in given.items() if value for word in (f"--{name}", value)), "--methods", *METHODS,
                     "--bootstrap", "50", "--embed", "none", *flags])

    run.out = tmp_path / "runs/sft-x_59f"
    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "predictions.summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_every_model_over_every_method(evaluate, models, capsys):  # noqa: F811
    models.replies["one_0"] = RIGHT
    assert evaluate() == 0
    leaves = sorted(str(p.relative_to(evaluate.out).parent) for p in evaluate.out.rglob("predictions.jsonl"))
    assert leaves == sorted(f"{adapter}/{method}" for adapter in METHODS for method in METHODS)
    assert models.loads == list(METHODS) and models.asked == ["one_0", "one_1"] * 4, "each model is loaded once"
    found = summary(evaluate.out / WA / BBLF)
    assert (found["adapter"], found["method"], found["stage"], found["variant"], found["pooling"], found["dataset"], found["runs"]) == (
        WA, BBLF, "sft", "full", "all", "ReasonVQA", 2)
    assert (found["max_frames"], found["max_segments"], found["output_file"], found["parse_failures"]) == (59, 2048, "predictions.jsonl", 1)
    assert found["metrics"] == {"EM": 0.5, "F1": 0.5, "BLEU1": 0.5, "BLEU4_BP": 0.5, "ROUGE_L": 0.5, "EmbedCos": None, "ROUGE_L_Reasoning": 0.5,
                                "EmbedCos_Reasoning": None}
    assert found["ci95"]["F1"] == [0, 1] and found["embed"] == {"missing": "embed=none"} and len(found["split_hash"]) == 16
    assert found["prompt"]["name"] == "film_interleaved" and found["versions"]["torch"]
    assert f"split hash {found['split_hash']}" in capsys.readouterr().out
    first = lines(evaluate.out / WA / BBLF)[0]
    assert first.keys() >= LINE and (first["movie"], first["index"], first["pred_answer"], first["f1"], first["adapter"]) == (
        "one", 0, "the man buries the gold under the grave", 1, WA)
    assert first["timestamp"] == "00:00:03" and first["contextTimestamp"] == "00:00:01 - 00:00:08", "as annotated"
    assert first["frame_times"] == [1.0, 3.0] and first["subtitle_segments"][0] == {"start": 1.0, "end": 2.5, "text": "Before."}, "film seconds"
    cells = read_runs(evaluate.out.parent)
    assert len(cells) == 4 and all(cell.entry.result["metrics"]["F1"]["value"] == 0.5 for cell in cells), "the reports read it"


def test_the_base_needs_no_trained_model(evaluate, models, tmp_path):  # noqa: F811
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("backbone: somewhere\nprompt: film_interleaved\nnum_frames: 16\nuse_subtitles: true\nlearning_rate: 1.0e-4\n")
    assert evaluate(out="runs/base-x", models="", base=str(recipe)) == 0
    found = summary(tmp_path / "runs/base-x" / WA)
    assert (found["adapter"], found["stage"], found["max_frames"], models.loads) == (None, "base", 59, [None])
    assert lines(tmp_path / "runs/base-x" / WA)[0]["adapter"] is None and found["model"]["base"]["backbone"] == "somewhere"


def test_dpo_models_say_so(evaluate, models, tmp_path):  # noqa: F811
    trained(tmp_path / "dpo" / WA, stage="dpo")
    assert evaluate(out="runs/dpo-x", models=str(tmp_path / "dpo")) == 0
    assert summary(tmp_path / "runs/dpo-x" / WA / BBLF)["stage"] == "dpo"


def test_finished_runs_are_kept_and_others_refused(evaluate, models, capsys, tmp_path):  # noqa: F811
    assert evaluate() == 0
    stamps = {p: p.stat().st_mtime_ns for p in evaluate.out.rglob("*")}
    models.asked.clear()
    assert evaluate() == 0 and capsys.readouterr().out.count(": kept, ") == 4 and not models.asked
    assert stamps == {p: p.stat().st_mtime_ns for p in evaluate.out.rglob("*")}
    for flags in (["--num_frames", "8"], ["--limit", "1"], ["--set", "max_segments=8"], ["--variant", "text_only"]):
        assert evaluate(*flags) == EXIT_USER_ERROR
        assert f"{BBLF} on {BBLF} with other settings" in capsys.readouterr().err and not models.asked
    (tmp_path / "models" / BBLF / "adapter_model.safetensors").write_bytes(b"trained again")
    assert evaluate() == EXIT_USER_ERROR and not models.asked
    assert evaluate("--overwrite", "true") == 0 and models.asked == ["one_0", "one_1"] * 2, "of that model alone"


def test_numbers_are_made_again_without_asking(evaluate, models, shards):  # noqa: F811
    models.replies["one_0"] = "Final Answer: the man buries the gold under a big grave"
    assert evaluate() == 0
    models.asked.clear()
    assert evaluate("--compat", "seed", "--train_shards", str(shards / "train" / WA)) == 0 and not models.asked
    found = summary(evaluate.out / WA / BBLF)
    assert lines(evaluate.out / WA / BBLF)[0]["pred_answer"] == "the man buries the gold under" and found["compat"] == "seed"
    assert found["ceiling"]["F1"] == pytest.approx((2 * 6 / 14 + 1) / 2), "six of eight words, and six of six"
    assert found["ceiling"]["EM"] == 0.5 and set(found["trivial"]) == {"question", "most_common_train_answer", "nearest_train_question"}


def test_baselines(evaluate, models, shards):  # noqa: F811
    """Words in common: "what did the man hide under the grave" shares 5 of its 8 words with an answer of 8, "why does he run" nothing."""
    assert evaluate("--train_shards", str(shards / "train" / WA)) == 0
    trivial = summary(evaluate.out / WA / BBLF)["trivial"]
    assert trivial["question"]["F1"] == pytest.approx((2 * 5 / 16 + 0) / 2)
    assert trivial["most_common_train_answer"]["F1"] == pytest.approx((2 * 2 / 11 + 2 * 1 / 9) / 2), "the old man"
    assert trivial["nearest_train_question"]["F1"] == pytest.approx((0 + 2 * 1 / 9) / 2), "because it rains: the first of equals; the same verb"
    assert evaluate("--train_shards", str(shards / "test" / WA)) == EXIT_USER_ERROR


def test_errors_are_lines_and_count_as_wrong(evaluate, models):  # noqa: F811
    def act(example):
        if example.example_id == "one_1":
            raise SampleError("no such picture", reason="unreadable_frame")

    models.replies["one_0"], models.act = RIGHT, act
    assert evaluate() == 0
    found = summary(evaluate.out / WA / BBLF)
    assert (found["metrics"]["F1"], found["runs"], found["errors"], found["status"]) == (0.5, 2, 1, {"ok": 1, "unreadable_frame": 1})
    _, failed = lines(evaluate.out / WA / BBLF)
    assert (failed["status"], failed["error"], failed["f1"], failed["pred_answer"], failed["frames_used"]) == (
        "unreadable_frame", "no such picture", 0, None, 0)
    models.act = lambda example: None
    models.asked.clear()
    assert evaluate("--retry_failed", "true") == 0 and models.asked == ["one_1"] * 4
    assert summary(evaluate.out / WA / BBLF)["errors"] == 0


def test_an_interrupted_run_goes_on_behind_its_last_question(evaluate, models):  # noqa: F811
    def act(example):
        if len(models.asked) == 5:  # the second question of the third cell
            raise KeyboardInterrupt

    models.act = act
    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert len(list(evaluate.out.rglob("predictions.summary.json"))) == 2
    models.act = lambda example: None
    assert evaluate() == 0 and models.asked == ["one_0", "one_1"] * 4


def test_a_missing_method_is_named_and_finished_runs_stay(evaluate, models, shards, tmp_path, capsys):  # noqa: F811
    assert evaluate() == 0
    models.asked.clear()
    part = tmp_path / "part"
    shutil.copytree(shards / "test" / BBLF, part / BBLF)
    assert evaluate(shards=str(part), out="runs/other") == EXIT_USER_ERROR
    assert f"1 of 2 methods are not packed: {part / WA}" in capsys.readouterr().err
    assert not models.asked and not (tmp_path / "runs/other").exists() and len(list(evaluate.out.rglob("predictions.jsonl"))) == 4


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda root: shutil.rmtree(root / "models"), "is not a folder of trained models"),
    (lambda root: [shutil.rmtree(p) for p in (root / "models").iterdir()], "no trained model in"),
    (lambda root: (root / "models" / WA / "config.json").unlink(), "hold no finished model"),
    (lambda root: (root / "models" / WA / "config.json").write_text("{}"), "was not trained by `unipixel train`")])
def test_models_that_cannot_be_evaluated(evaluate, models, tmp_path, capsys, prepare, message):  # noqa: F811
    prepare(tmp_path)
    assert evaluate() == EXIT_USER_ERROR and message in capsys.readouterr().err and not models.asked


@pytest.mark.parametrize(("flags", "message"), [
    (["--base", "x"], "either --base RECIPE or --models"), (["--adapters", "WAR"], "are not in"), (["--set", "num_frame=3"], "nearest: 'num_frames'"),
    (["--methods", "BBLF", "blend_blur_with_last_frame"], "lists a method twice"), (["--limit", "-1"], "limit=-1")])
def test_contradictions(evaluate, models, capsys, flags, message):  # noqa: F811
    assert evaluate(*flags) == EXIT_USER_ERROR and message in capsys.readouterr().err and not models.asked


def test_methods_with_other_questions_are_not_compared(evaluate, models, shards, tmp_path, capsys):  # noqa: F811
    shutil.copytree(shards / "test" / BBLF, tmp_path / "mixed" / BBLF)
    shutil.copytree(shards / "train" / WA, tmp_path / "mixed" / WA)
    assert evaluate(shards=str(tmp_path / "mixed")) == EXIT_USER_ERROR and "hold different questions" in capsys.readouterr().err


def test_limit_and_chosen_adapters(evaluate, models):  # noqa: F811
    assert evaluate("--limit", "1", "--adapters", "WA") == 0 and models.asked == ["one_0"] * 2
    assert (summary(evaluate.out / WA / BBLF)["runs"], summary(evaluate.out / WA / BBLF)["limit"]) == (1, 1)


@pytest.mark.parametrize(("variant", "pooling", "changed"), [
    ("keyframe_only", "keyframe", ("frames", "show_frames", "key_frame")), ("text_only", "none", ("frames", "show_frames", "none")),
    ("frames_only", "all", ("template", "use_subtitles", False)), ("classic", "all", ("template", "prompt", "film_classic"))])
def test_ablations_change_what_is_shown(evaluate, models, variant, pooling, changed):  # noqa: F811
    assert evaluate("--variant", variant, "--adapters", "WA") == 0
    found, (part, name, value) = summary(evaluate.out / WA / BBLF), changed
    assert (found["variant"], found["pooling"], found["context"][part][name]) == (variant, pooling, value)


def test_the_table_names_what_it_is_read_against(evaluate, models, capsys):  # noqa: F811
    assert evaluate("--compat", "seed") == 0
    out = capsys.readouterr().out
    assert "(question)" in out and "(perfect answers, cut)" in out and "EmbedCos" not in out
    assert command.table([("x", summary(evaluate.out / WA / BBLF))]).count("\n") > 5


def test_several_processes_share_the_questions(evaluate, models, monkeypatch, capsys):  # noqa: F811
    """Started as the command starts them, here one after the other: the same files, and a model's cells are scored when they are answered."""
    models.replies["one_0"] = RIGHT
    assert evaluate(out="runs/alone") == 0
    models.asked.clear()
    started = []

    def start(argv, count, module):
        started.append((argv[-2:], count, module))
        for number in range(count):
            assert main([*argv, "--worker", str(number)]) == 0

    monkeypatch.setattr(command, "start_workers", start)
    assert evaluate("--workers", "2", out="runs/shared") == 0
    assert started == [(["--adapters", name], 2, "benchmarks.film_runs.command") for name in METHODS]
    assert models.asked == ["one_0", "one_1"] * 4, "nothing twice"
    alone, shared = (evaluate.out.parent / name for name in ("alone", "shared"))
    for path in alone.rglob("predictions.jsonl"):
        assert (shared / path.relative_to(alone)).read_bytes() == path.read_bytes()
        assert summary((shared / path.relative_to(alone)).parent)["metrics"] == summary(path.parent)["metrics"]
    models.asked.clear()
    assert evaluate("--workers", "2", out="runs/shared") == 0 and models.asked == [] and len(started) == 2, "kept"
    assert evaluate("--workers", "2", "--num_frames", "3", "--overwrite", "true", out="runs/shared") == 0 and len(models.asked) == 8
    assert "kept, " in capsys.readouterr().out
