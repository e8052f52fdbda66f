"""Pairs into shards: each medium with its frames as packed, and the examples that have pairs.

A pair of a question that the medium already has becomes part of that example, with the same evidence on both sides; other questions become
``chat`` examples of one turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_tools.preference.select import Made
from data_tools.preference.steps import Media
from unipixel.data.ledger import SkipLedger
from unipixel.data.shards import ShardWriter
from unipixel.data.stored_video import StoredVideo
from unipixel.errors import SampleError
from unipixel.sample import Example, PreferencePair, Sample, Turn


def write_pairs(made: Sequence[Made], media: Media, out: str | Path, ledger: SkipLedger, *, dataset: str, split: str) -> dict[str, Any]:
    """Write one split and return its manifest. The folder is readable when all of it is written.

    Raises:
        DataError: no pair could be written, or ``out`` holds a dataset already.
    """
    by_medium: dict[str, list[Made]] = {}
    for m in made:
        by_medium.setdefault(m.question.medium, []).append(m)
    with ShardWriter(out, dataset=dataset, split=split) as writer:
        for key in tqdm(list(by_medium), desc=f"pack {dataset}/{split}", unit="medium"):
            with ledger.catching("write", key, examples=len(by_medium[key])):
                sample = media.sample(key)
                frames = sample.frames if isinstance(sample.frames, StoredVideo) else list(sample.frames)
                writer.write(sample.medium, _examples(sample, by_medium[key]), frames)
        return writer.close(ledger)


def _examples(sample: Sample, made: Sequence[Made]) -> list[Example]:
    known = {example.example_id: example for example in sample.examples}
    by_question: dict[str, list[Made]] = {}
    for m in made:
        by_question.setdefault(m.question.question_id, []).append(m)
    examples = []
    for its in by_question.values():
        question, pairs = its[0].question, [m.pair for m in its]
        if not question.example_id:
            turns = Turn("user", question.prompt), Turn("assistant", question.reference or pairs[0].chosen)
            examples.append(Example(question.question_id, "chat", turns=turns, pairs=tuple(pairs), source={"recipe": question.recipe}))
        elif question.example_id not in known:
            raise SampleError(f"the medium has no example {question.example_id!r}", reason="no_example")
        else:
            example = known[question.example_id]
            examples.append(replace(example, pairs=tuple(_with_evidence(example, pair) for pair in pairs)))
    return examples


def _with_evidence(example: Example, pair: PreferencePair) -> PreferencePair:
    """The prompt of such an example asks for its evidence: both sides give the annotated one, so that they differ in words only."""
    objects = tuple(dict.fromkeys(oid for target in example.targets for oid in target)) or None
    return replace(pair, chosen_segments=example.segments, rejected_segments=example.segments, chosen_objects=objects, rejected_objects=objects)
