"""Agreement in meaning with a stub encoder; no number without an encoder."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from benchmarks.film_runs import scoring
from benchmarks.film_runs.command import FilmEvalArguments, _encoder
from benchmarks.tasks import get_task
from benchmarks.truth import GroundTruth
from unipixel.errors import ConfigError
from unipixel.infer.predictions import Prediction
from unipixel.metrics import embedding
from unipixel.metrics.embedding import cosines


class HashEncoder:
    """A direction per word, so that texts with common words are near; not normalised."""

    name, revision = "hash", "1"

    def __init__(self):
        self.encoded: list[str] = []

    def encode(self, texts):
        self.encoded += texts
        return np.stack([3 * sum(self.word(word) for word in text.split()) for text in texts])

    @staticmethod
    def word(word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(64).astype(np.float32)


def test_cosines():
    encoder = HashEncoder()
    same, near, far, blank, both = cosines(encoder, [("a dog", "a dog"), ("a dog", "a cat"), ("a dog", "two birds"), ("", "a dog"), (" ", "")])
    assert same == pytest.approx(1) and 1 > near > far > -1 and (blank, both) == (0, 1)
    assert sorted(encoder.encoded) == ["a cat", "a dog", "two birds"], "each text once"
    assert cosines(encoder, []) == []


def found(encoder, reply: str | None):
    truth = GroundTruth("e", "m", "a black dog", facts={"question": "What?", "rationale": "It barks."})
    predictions = {} if reply is None else {"e": Prediction("e", "m", reply=reply)}
    task = get_task("reasonvqa")
    return scoring.means(scoring.score(task, task.protocol(), [truth], predictions, encoder), task)


def test_without_an_encoder_there_is_no_number():
    values = found(None, "Reasoning: It barks.\nFinal Answer: a black dog")
    assert (values["EmbedCos"], values["EmbedCos_Reasoning"], values["F1"]) == (None, None, 1)
    json.dumps(values, allow_nan=False)


def test_answers_and_reasons_are_compared_apart():
    values = found(HashEncoder(), "Reasoning: It sleeps.\nFinal Answer: a black dog")
    assert values["EmbedCos"] == pytest.approx(1) and values["EmbedCos_Reasoning"] < 0.9
    assert found(HashEncoder(), None)["EmbedCos"] == 0, "no reply is wrong, not left out"


def test_a_missing_package_is_a_reason_or_an_error(monkeypatch):
    """``auto`` goes on without numbers and says why; an encoder that is named must be there."""
    for module in (embedding, __import__("benchmarks.film_runs.command", fromlist=["command"])):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    name, reason = _encoder("auto")
    assert name is None and "unipixel-train[embed]" in reason and FilmEvalArguments.embed == "auto"
    with pytest.raises(ConfigError, match="needs the package sentence-transformers"):
        embedding.SentenceTransformer("some/model")
