"""What a general model is asked for evidence, and its reply taken apart: answer, segments, and expressions that name the objects.

One turn asks for a JSON object; three turns ask for the parts one after the other, with the earlier replies in view. A reply that is
not the JSON that was asked for is read by its fenced block, its labels or its lists; nothing in it is evaluated, and what was not as
expected is counted in ``problems``. The masks themselves come from a segmenter (``benchmarks.adapters.two_step``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unipixel.infer.predictions import Prediction
from unipixel.metrics import normalise_segments, parse_reply
from unipixel.metrics.reply import NO_ANSWER, NO_REPLY, NO_SEGMENTS

NO_EXPRESSIONS, NO_JSON = "no_expressions", "no_json"
_EXPRESSION_RULES = (
    "Name only the objects that the question and its answer need. Each expression must be short and fit one object alone: say its colour, "
    "shape, size, material, action or place. Do not mention times.")
GENERATION_PROMPT = (
    "{question}\nOptions:\n{options}\n\nThe video is {duration} seconds long. Answer with one JSON object and nothing else:\n"
    '{{"answer": "<letter of the option>", "segments": [[<start>, <end>], ...], "referring_expressions": ["<object>", ...]}}\n'
    "segments: the times in seconds that prove the answer. referring_expressions: the objects that prove it. " + _EXPRESSION_RULES)
TURNS = (
    "{question}\nOptions:\n{options}\n\nAnswer with the letter of the option alone.",
    "The video is {duration} seconds long. Which times prove your answer? Reply with a list of [start, end] in seconds alone, "
    "such as [[0.5, 2.0], [4.0, 6.5]].",
    "Which objects prove your answer? Reply with a JSON list of referring expressions alone. " + _EXPRESSION_RULES)
"""The same in three turns: answer, segments, expressions."""
_FENCE = re.compile(r"```(?:json|JSON)?\s*(.*?)```", re.DOTALL)
_LABELLED = re.compile(r"(?:referring[ _]expressions?|spatial[ _]evidence|objects?)\W{0,6}[:=]\s*(.+)", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]{2,200})"|\'([^\'\n]{2,200})\'')
_ALIASES = {"answer": ("answer",), "segments": ("segments", "time_segments", "temporal_evidence"),
            "expressions": ("referring_expressions", "expressions", "spatial_evidence")}


@dataclass(frozen=True)
class EvidenceReply:
    """Parts of a reply; ``None`` where it holds none. ``segments`` in seconds."""

    answer: str | None
    segments: tuple[tuple[float, float], ...] | None
    expressions: tuple[str, ...] | None
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.answer is not None and self.segments is not None and self.expressions is not None


def parse_evidence(text: str) -> EvidenceReply:
    """One reply -> its parts; never raises on what a model wrote."""
    if not text.strip():
        return EvidenceReply(None, None, None, (NO_REPLY,))
    found, problems = _json_object(text), []
    if found is None:
        problems.append(NO_JSON)
        parsed = parse_reply(text)
        found = {"answer": parsed.answer, "segments": parsed.segments, "expressions": _stray_expressions(text)}
    segments, problem = normalise_segments(found["segments"])
    expressions = _names(found["expressions"])
    answer = found["answer"] if isinstance(found["answer"], str) and found["answer"].strip() else None
    problems += [problem] * (problem is not None) + [NO_ANSWER] * (answer is None) + [NO_EXPRESSIONS] * (expressions is None)
    return EvidenceReply(answer, None if problem == NO_SEGMENTS else tuple(segments), expressions, tuple(problems))


def parse_turns(replies: Sequence[str]) -> EvidenceReply:
    """The three replies of a multi-turn dialogue, in the order of ``TURNS``."""
    answer, times, objects = [*replies, "", "", ""][:3]
    head = parse_reply(answer)
    value = next((v for v in _json_values(times) if normalise_segments(v)[0]), times)
    segments, problem = normalise_segments(value)
    expressions = _names(next((v for v in _json_values(objects) if isinstance(v, list)), None)) or _stray_expressions(objects)
    problems = [NO_ANSWER] * (head.answer is None) + [problem] * (problem is not None) + [NO_EXPRESSIONS] * (expressions is None)
    return EvidenceReply(head.answer, tuple(segments) or None, expressions, tuple(problems))


def join_turns(replies: Sequence[str]) -> str:
    """Replies of a dialogue as the one ``reply`` of a prediction; :func:`reply_of` reads it back."""
    return json.dumps({"turns": list(replies)}, ensure_ascii=False)


def reply_of(prediction: Prediction) -> EvidenceReply:
    """What a prediction's reply says, whichever flow made it."""
    text = prediction.reply or ""
    try:
        raw = json.loads(text) if text.startswith('{"turns"') else None
    except ValueError:
        raw = None
    return parse_turns([str(turn) for turn in raw["turns"]]) if isinstance(raw, dict) and isinstance(raw.get("turns"), list) else parse_evidence(text)


def is_json_reply(prediction: Prediction) -> bool:
    """Whether a general model made it: a dialogue in turns, or a JSON object with the parts of an evidence reply."""
    text = prediction.reply or ""
    return text.startswith('{"turns"') or ("{" in text and _json_object(text) is not None)


def read_evidence(prediction: Prediction) -> Prediction:
    """The prediction with answer and segments of its reply; failed ones stay as they are."""
    if prediction.failed or prediction.reply is None:
        return prediction
    said = reply_of(prediction)
    return replace(prediction, answer=said.answer, segments=said.segments, problems=said.problems)


def _json_object(text: str) -> dict[str, Any] | None:
    """The first JSON object of a reply with one of the known keys, also inside a fence or wrapped in a list."""
    for value in _json_values(text):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            lower = {str(key).lower(): item for key, item in value.items()}
            parts = {part: next((lower[name] for name in names if name in lower), None) for part, names in _ALIASES.items()}
            if any(item is not None for item in parts.values()):
                return parts
    return None


def _json_values(text: str) -> list[Any]:
    """JSON values that a reply holds: of its fenced blocks, of the whole text, and from its first bracket on."""
    decoder, values = json.JSONDecoder(), []
    for part in (*_FENCE.findall(text), text):
        starts = [at for at in (part.find("{"), part.find("[")) if at >= 0]
        for at in sorted(starts):
            try:
                values.append(decoder.raw_decode(part[at:])[0])
            except (ValueError, RecursionError):
                continue
    return values


def _names(value: Any) -> tuple[str, ...] | None:
    """Expressions of a list (of texts, or of objects with a text) or of one text; ``None`` when there are none."""
    items = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    texts = [next((v for v in item.values() if isinstance(v, str)), "") if isinstance(item, Mapping) else item for item in items]
    names = tuple(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
    return names or None


def _stray_expressions(text: str) -> tuple[str, ...] | None:
    """Quoted texts behind a label, else the words behind it."""
    label = _LABELLED.search(text)
    if label is None:
        return _names([a or b for a, b in _QUOTED.findall(text)])
    rest = label[1].splitlines()[0]
    return _names([a or b for a, b in _QUOTED.findall(rest)] or [part.strip(" .[]<|>") for part in re.split(r"[;,]", rest) if "seg" not in part])
