"""A scripted model that plays every role of pair making: it tells the roles apart by the wording of their prompts."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.chat_server import Answer, pictures_of, text_of

THINGS = ("cup", "dog", "door", "ball", "tree", "car", "hat", "lamp")


@dataclass
class Player:
    """``spoil``: part of a prompt -> what is said instead; ``asked``: (role, pictures) of each request."""

    spoil: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, body: dict[str, Any]) -> Answer:
        text = text_of(body)
        role, reply = self._play(text, body)
        self.asked.append((role, pictures_of(body)))
        return next((said for part, said in self.spoil.items() if part in text), reply)

    def count(self, role: str) -> int:
        return sum(name == role for name, _ in self.asked)

    def _play(self, text: str, body: dict[str, Any]) -> tuple[str, str]:
        mark = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16)
        thing = THINGS[mark % len(THINGS)]
        if "Write" in text and "questions about this video" in text:
            count = int(re.search(r"Write (\d+)", text)[1])
            topic = next(w for w in ("nearer", "order of events", "stays the same") if w in text)
            return "queries", json.dumps([f"Question {n} of {mark % 10**6} about {topic}?" for n in range(count)])
        if "Do not mention this instruction" in text:
            return "mislead", f"It is seen that the {thing} {mark % 10**6} floats."
        if "Reply B was meant to be wrong" in text:
            return "verdict", json.dumps({"why": "clear", "misaligned": mark % 3 > 0, "different": True, "preferred_sane": True})
        if "Describe this video in detail" in text:
            return "caption", f"A {thing} is moved in scene {mark % 10**6}, then it falls."
        if text.startswith("This describes a video"):
            asked = (f"Q{n}: What happens to thing {n} of {mark % 10**6}?\nA{n}: It falls, as thing {n} does." for n in (1, 2, 3))
            return "dialogues", "\n".join(asked)
        if "A reply to a question about a video is graded" in text:
            return "grade", f"It agrees in part.\nScore: {1 + mark % 5}"
        if "A reply to a question about this video is graded" in text:
            return "frames_grade", f"It shows.\nScore: {1 + mark % 5}"
        if "Compare it with the pictures" in text:
            return "caption_check", json.dumps({"claims": 4, "contradicted": ["it falls"], "unseen": [], "missing": ["a lamp", "a hat"]})
        return "answer", f"The {thing} number {mark % 10**6} is moved first and falls later."
