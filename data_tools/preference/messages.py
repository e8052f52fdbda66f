"""What is asked of a model: messages of text and pictures with the sampling parameters, and the hash that names such a request.

The hash covers everything the reply depends on (model, revision, all texts, the bytes of all pictures, sampling) and nothing else: the same
model at another address gives the same name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from unipixel.data.frames import IMAGE_SUFFIX
from unipixel.data.media import stable_rng
from unipixel.errors import ConfigError, SampleError

MIME = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """Encoded bytes, JPEG or PNG."""

    data: bytes

    @property
    def url(self) -> str:
        """The picture as a ``data:`` address."""
        suffix = IMAGE_SUFFIX.get(self.data[:3])
        if suffix is None:
            raise SampleError(f"a picture begins with {self.data[:8]!r}, which is neither JPEG nor PNG", reason="frame_format")
        return f"data:{MIME[suffix]};base64,{base64.b64encode(self.data).decode()}"


Part = str | Picture


@dataclass(frozen=True)
class Message:
    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The texts of all parts."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


def user(*parts: Part) -> tuple[Message, ...]:
    """A dialogue of one user turn."""
    return (Message("user", parts),)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a reply is drawn.

    Attributes:
        temperature: 0 is greedy.
        max_tokens: a reply that reaches it is cut, and not used.
        sample: number of the draw: tells equal requests apart for services that ignore ``seed``.
        extra: parameters beyond the common interface that a server takes, such as vLLM's ``top_k``; sent as they are.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    sample: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ConfigError(f"temperature={self.temperature} must not be negative, top_p={self.top_p} must be in (0, 1], "
                              f"max_tokens={self.max_tokens} at least 1")


@dataclass(frozen=True)
class ChatRequest:
    """``model``: name and revision, as in :attr:`~data_tools.preference.endpoints.Endpoint.identity`."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()

    @cached_property
    def content(self) -> dict[str, Any]:
        """The request as plain values, each picture as the SHA-256 of its bytes."""
        messages = [{"role": m.role, "parts": [part if isinstance(part, str) else {"sha256": hashlib.sha256(part.data).hexdigest()}
                                               for part in m.parts]} for m in self.messages]
        return {"model": self.model, "messages": messages, "sampling": {name: value for name, value in asdict(self.sampling).items() if value != {}}}

    @cached_property
    def key(self) -> str:
        return content_hash(self.content)


def content_hash(value: Any) -> str:
    """SHA-256 of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()).hexdigest()


def seed_of(*parts: Any) -> int:
    """A seed that depends on the given values only, and that every service accepts."""
    return int(stable_rng(*parts).integers(1 << 31))


def as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of the chat-completions interface; a turn of text alone is a string, which text-only models want."""
    def content(message: Message) -> str | list[dict[str, Any]]:
        if all(isinstance(part, str) for part in message.parts):
            return message.text
        return [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": part.url}}
                for part in message.parts]

    return [{"role": message.role, "content": content(message)} for message in messages]
