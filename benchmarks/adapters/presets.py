"""Frame and decoding settings of published baselines, as their evaluation on ST-Evidence documents them.

A preset says how a model is shown a video and how it replies; where it is served (or the folder it is loaded from) is the role
``answerer`` of the ``--models`` file. Frames go as single pictures with their times in text, which every server takes; models that were
published with native video input (Gemini, Qwen-VL) get the same frames this way, and their cards say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_tools.preference.frames import FrameRule


@dataclass(frozen=True, kw_only=True)
class Preset:
    """
    Attributes:
        frames: rate, cap and width of what it sees; a wider frame is made smaller, its shape is kept.
        temperature: ``None`` leaves it to the service.
        extra: sampling parameters beyond the common interface.
        published: what the published setting has that this one cannot repeat.
    """

    frames: FrameRule
    max_tokens: int
    temperature: float | None = 0.0
    top_p: float = 1.0
    extra: Mapping[str, float] = field(default_factory=dict)
    published: str = ""

    def card(self) -> dict[str, Any]:
        return {"frames": vars(self.frames), "max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p,
                "extra": dict(self.extra), "published": self.published}


_GPT = {"frames": FrameRule(fps=1, count=32, width=512), "max_tokens": 2048, "published": "frames squashed to 512x512, without times"}
_QWEN = {"frames": FrameRule(fps=1, count=768), "max_tokens": 4096, "temperature": 0.1, "published": "one native video input"}
PRESETS: dict[str, Preset] = {
    "gpt-4o": Preset(**_GPT),
    **dict.fromkeys(("gpt-5", "gpt-5-mini", "o3"), Preset(**_GPT, temperature=None)),
    **dict.fromkeys(("gemini-2.5-flash", "gemini-2.5-pro"), Preset(
        frames=FrameRule(fps=1), max_tokens=4096, temperature=0.1, published="one native video input, JSON mode, a second try at 9218 tokens")),
    "internvl3.5": Preset(frames=FrameRule(fps=1, width=448), max_tokens=4096, published="frames from the middle of each second, one tile"),
    "qwen2.5-vl": Preset(**_QWEN, top_p=0.001, extra={"repetition_penalty": 1.05}),
    "qwen3-vl": Preset(**_QWEN, top_p=0.8, extra={"top_k": 20}),
    "videollama3": Preset(frames=FrameRule(fps=1, count=128), max_tokens=2048),
    "llava-ov-1.5": Preset(frames=FrameRule(fps=1, count=128, width=512), max_tokens=2048),
}
