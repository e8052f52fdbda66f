"""Agreement in meaning: the cosine of two texts' embeddings by a sentence encoder, which is named with every number.

The encoder is an interface, so that any model (or a stub) can take its place. One that is not installed gives no number and a reason,
never 0. Needs the extra ``embed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from unipixel.errors import ConfigError

MODEL = "sentence-transformers/all-mpnet-base-v2"
"""The encoder of POVQA's EmbedCos."""
INSTALL = "pip install 'unipixel-train[embed]'"


class Encoder(Protocol):
    """Texts to vectors.

    Attributes:
        name, revision: which weights; ``revision`` is ``None`` where they do not say.
    """

    name: str
    revision: str | None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32, a row per text; any length, it is normalised here."""


class SentenceTransformer:
    """A model of the sentence-transformers package.

    Raises:
        ConfigError: the package is missing, or the model can neither be found nor downloaded.
    """

    def __init__(self, name: str = MODEL, device: str | None = None):
        if find_spec("sentence_transformers") is None:
            raise ConfigError(f"the sentence encoder {name!r} needs the package sentence-transformers: {INSTALL}")
        import sentence_transformers  # noqa: PLC0415 - an extra

        try:
            self._model = sentence_transformers.SentenceTransformer(name, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the sentence encoder {name!r} cannot be loaded: {error}; download it, or go without") from error
        self.name, self.revision = name, getattr(self._model[0].auto_model.config, "_commit_hash", None)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)


def cosines(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Cosine of each pair's embeddings, -1 to 1; every text is encoded once. A pair with an empty text scores 0, two empty ones 1."""
    texts = list(dict.fromkeys(text for pair in pairs if all(map(str.strip, pair)) for text in pair))
    vectors = {}
    if texts:
        rows = np.asarray(encoder.encode(texts), np.float64)
        vectors = dict(zip(texts, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), strict=True))
    return [float(vectors[a] @ vectors[b]) if a in vectors and b in vectors else float(not a.strip() and not b.strip()) for a, b in pairs]
