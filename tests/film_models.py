"""Packed film questions and models that answer from a table instead of weights, for the tests of film runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.adapters.base import Adapter
from benchmarks.film_runs import command
from benchmarks.film_runs.models import Model
from benchmarks.protocol import Protocol
from benchmarks.task import Task
from tests.bench_samples import packed
from tests.dataset_fixtures import language
from unipixel.infer.predictions import Prediction
from unipixel.sample import Example, Sample

METHODS = ("blend_blur_with_last_frame", "weighted_average")
ANSWERS = {"one_0": ("What did the man hide under the grave?", "the man buries the gold under the grave"),
           "one_1": ("Why does he run?", "because the dog is behind him")}
TRAIN = {"the_matrix_0": ("Why does she run?", "because it rains"), "the_matrix_1": ("Who is it?", "the old man"),
         "the_matrix_2": ("Who sings?", "the old man")}


def write_films(root: Path) -> None:
    """A film to train on and one to test on, nine pictures each, two cues."""
    for film in ("one", "the_matrix"):
        items = [language.povqa_item(n, f"00:00:0{3 + n}", "00:00:01 - 00:00:08", question=question, answer=answer)
                 for n, (question, answer) in enumerate((ANSWERS if film == "one" else TRAIN).values())]
        language.povqa_film(root, film, items, pictures=[language.jpeg(t) for t in range(9)], text=[(0.0, 2.5, "Before."), (4.0, 5.0, "Now.")],
                            keys={0: language.jpeg(50)})


def film_shards(folder: Path) -> Path:
    """``test/METHOD`` and ``train/METHOD``; the methods hold the same pictures."""
    for split in ("test", "train"):
        first = packed("reasonvqa", write_films, folder / split, split)
        for method in METHODS:
            shutil.copytree(first, folder / "shards" / split / method)
    return folder / "shards"


def tvqa_shards(folder: Path) -> Path:
    first = packed("tvqa", language.tvqa, folder, "val")
    for method in METHODS:
        shutil.copytree(first, folder / "methods" / method)
    return folder / "methods"


def trained(folder: Path, stage: str = "sft", **settings) -> Path:
    """A folder that looks like a finished model."""
    folder.mkdir(parents=True)
    config = {"unipixel": {"frames": {"num_frames": 4, "key_frame": True}, "template": {
        "prompt": "film_interleaved", "answer_style": "rationale", "use_subtitles": True} | settings}}
    (folder / "config.json").write_text(json.dumps(config | ({"preference": {"reference": "adapter"}} if stage == "dpo" else {})))
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
    return folder


class TableAdapter(Adapter):
    """Says what ``replies`` holds for an example id; ``act`` may raise before each answer. ``asked`` are all ids, over all adapters of a test."""

    name, asked = "table", []

    def __init__(self, context, identity: Mapping, max_new_tokens: int, replies: Mapping[str, str], act: Callable[[Example], None]):
        self.context, self.identity, self.replies, self.act = context, dict(identity), replies, act

    def answer(self, task: Task, sample: Sample, protocol: Protocol, *, careful: bool = False) -> Iterator[Prediction]:
        for example in sample.examples:
            self.act(example)
            self.asked.append(example.example_id)
            yield Prediction(example.example_id, sample.medium.medium_id, "no_mask", reply=self.replies.get(example.example_id, "no labels"),
                             shown=(0, 2))


@pytest.fixture
def models(monkeypatch):
    """``models.replies`` and ``models.act`` decide what every model of the command says; ``models.asked`` is what they were asked."""
    class Says:
        replies: dict[str, str] = {}
        act = staticmethod(lambda example: None)
        asked: list[str] = []
        loads: list[str | None] = []

    TableAdapter.asked = Says.asked = []
    Says.replies, Says.loads = {}, []
    monkeypatch.setattr(Model, "load", lambda self, batch_size, device: Says.loads.append(self.name) or self.context)
    monkeypatch.setattr(command, "FilmAdapter", lambda context, identity, longest: TableAdapter(context, identity, longest, Says.replies,
                                                                                              lambda example: Says.act(example)))
    return Says
