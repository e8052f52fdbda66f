"""How a benchmark is run and scored: one frozen record per task and compat switch, stored with every result.

Numbers of one benchmark can be compared only when this record is the same; ``Protocol.hash`` says so in one word. It owns no code path:
tasks and adapters read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Protocol:
    """How examples are asked and scored.

    Attributes:
        compat: ``none``, or the name of a published evaluator whose arithmetic is repeated where it differs from ours.
        on_size_mismatch: predicted masks of another size than the truth are resized (nearest, counted) or are an error.
        bound_th: boundary tolerance of F as a share of the diagonal, or in pixels from 1 on.
        frames: frames the language model sees, spread uniformly; 0: what the model was trained with, or its adapter documents.
        fps: frames per second that it sees, ``frames`` at most; 0: their number alone decides.
        min_pixels, max_pixels: area of such a frame; 0: as above.
        max_new_tokens: longest reply.
        prompt: what general models are asked, with ``{question}`` and the like in braces.
        averaging: how examples become the headline, in words.
        version: counts up when a task changes what its numbers mean.
    """

    compat: str = "none"
    on_size_mismatch: Literal["resize", "error"] = "resize"
    bound_th: float = 0.008
    frames: int = 0
    fps: float = 0.0
    min_pixels: int = 0
    max_pixels: int = 0
    max_new_tokens: int = 512
    prompt: str = "{question}"
    averaging: str = "mean over examples"
    version: int = 1

    @property
    def hash(self) -> str:
        """16 hex digits over every field."""
        return content_hash(dataclasses.asdict(self))

    @property
    def prompt_hash(self) -> str:
        return content_hash(self.prompt)

    def card(self) -> dict[str, Any]:
        """What a result file stores."""
        return dataclasses.asdict(self) | {"hash": self.hash, "prompt_hash": self.prompt_hash}


def content_hash(value: Any) -> str:
    """16 hex digits of plain JSON data; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
