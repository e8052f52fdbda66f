"""``unipixel pairs captions``: what the captions that stand for videos are worth, before a judge reads them as evidence.

Words tell how much a caption says of time and place, and whether it names the annotated objects; a judge that sees the frames says what is
wrong in it and what it leaves out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.command import OutSettings, command, refuse_idle
from data_tools.preference.frames import FrameRule
from data_tools.preference.messages import Sampling
from data_tools.preference.parsing import CaptionCheck, parse_caption_check
from data_tools.preference.prompts import prompt
from data_tools.preference.questions import Question, read_questions
from data_tools.preference.steps import Looks, Media, ask_each, finish, framed, skip_file
from data_tools.preference.style import is_refusal
from data_tools.preference.textual import normal, words
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.data.ledger import SkipLedger
from unipixel.data.media import sample_frames
from unipixel.errors import ConfigError, DataError
from unipixel.sample import Medium

TIME = re.compile(r"\b(?:then|after(?:wards?)?|before|while|until|when|once|finally|first|next|last|later|earlier|meanwhile|begins?|starts?|ends?"
                  r"|stops?|continues?|again|suddenly|slowly|quickly|during|as soon as|at the (?:beginning|start|end))\b", re.IGNORECASE)
PLACE = re.compile(r"\b(?:left|right|above|below|under|over|behind|in front of|beside|next to|between|near|far|inside|outside|on top of|in the"
                   r" (?:background|foreground|middle|cent(?:er|re)|corner)|towards?|away from|across|around|through)\b", re.IGNORECASE)
NAMED = 0.5
"""An annotated object counts as named when the caption has at least this share of the words of its expression."""


@dataclass(kw_only=True)
class CaptionSettings:
    """Which captions, and who looks at them."""

    questions: str = setting("", "table of questions with captions, as `unipixel pairs make hound` writes it")
    shards: list[str] = setting([], "packed folders with the videos: for their lengths and objects, for videos without a caption, and for the judge")
    models: str = setting("", "YAML file with the role judge, which compares captions with frames; empty: only words are counted")
    replies: str = setting("", "journal of the judge's replies; default: replies.jsonl beside --out")
    limit: int = setting(0, "the judge looks at this many captions only, spread evenly; 0: all")
    frames: int = setting(16, "how many frames of a video the judge sees, spread evenly: more than the captioner saw")
    width: int = setting(336, "pixels; wider frames are made smaller. 0: as stored")
    max_tokens: int = setting(1024, "longest reply of the judge")

    def __post_init__(self):
        if not self.questions:
            raise ConfigError("--questions is empty: name the table with the captions")
        if self.models and not self.shards:
            raise ConfigError("--models without --shards: the judge compares captions with frames")
        if not self.models:
            refuse_idle(self, ("replies", "limit", "frames", "width", "max_tokens"), "without --models: no judge is asked")
        if self.limit < 0 or self.frames < 1 or self.width < 0 or self.max_tokens < 1:
            raise ConfigError(f"limit={self.limit} and width={self.width} must not be negative, frames={self.frames} and max_tokens="
                              f"{self.max_tokens} must be at least 1")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs captions``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs captions", (CaptionSettings, OutSettings), captions, argv)


def captions(settings: CaptionSettings, out: OutSettings) -> None:
    """Write one line per caption to ``out``, and the summary into its report.

    Raises:
        DataError: the table holds no caption, or a judge was asked and none of its replies could be read; the files are written then, too.
    """
    found, ledger = captions_of(read_questions(settings.questions)), SkipLedger()
    if not found:
        raise DataError(f"{settings.questions} holds no caption: `unipixel pairs make hound` writes tables that do")
    media = Media(settings.shards) if settings.shards else None
    rows: dict[str, dict[str, Any]] = {}
    for key, text in found.items():
        rows[key] = {"medium": key, "caption": text} | facts(text)
        if media is not None:
            with ledger.catching("media", key):
                rows[key] |= beside(text, media.sample(key).medium)
    with ExitStack() as stack:
        asked: Mapping[str, ChatClient] = {}
        if settings.models:
            journal = Path(settings.replies) if settings.replies else Path(out.out).with_name("replies.jsonl")
            asked = stack.enter_context(clients(settings.models, ("judge",), journal))
            there = {key: text for key, text in found.items() if "seconds" in rows[key]}  # the others are listed already
            for key, check in checked(there, media, asked["judge"], settings, ledger):
                rows[key] |= asdict(check)
        report = finish(out.out, ledger, asked.values())
    uncaptioned = [key for key in media if key not in rows] if media is not None else None
    summary = summarize(list(rows.values()), uncaptioned)
    replace_file(Path(f"{out.out}.report.json"), (json.dumps(report | {"captions": summary}, indent=1) + "\n").encode())
    replace_file(Path(out.out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()).encode())
    print(tabulate([(name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else value) for name, value in summary.items()
                    if not isinstance(value, list)], headers=("captions", ""), disable_numparse=True))
    if settings.models and "checked_by_judge" not in summary:
        raise DataError(f"the judge checked no caption: {ledger.counts}; see {skip_file(out.out)}. What words tell is in {out.out}")


def captions_of(questions: Sequence[Question]) -> dict[str, str]:
    """Caption by medium.

    Raises:
        DataError: two questions about one medium have different captions.
    """
    found: dict[str, str] = {}
    for question in questions:
        if question.caption and found.setdefault(question.medium, question.caption) != question.caption:
            raise DataError(f"medium {question.medium!r} has two captions; one of them at question {question.question_id!r}")
    return found


def facts(text: str) -> dict[str, Any]:
    """What the words alone tell: how many there are, how many of them speak of time and of place, whether it is a refusal or goes in circles."""
    said = words(text)
    runs = Counter(zip(said, said[1:], said[2:], strict=False))
    return {"words": len(said), "time_words": len(TIME.findall(text)), "place_words": len(PLACE.findall(text)), "refusal": is_refusal(text),
            "repeated": 1 - len(runs) / runs.total() if runs else 0.0}


def beside(text: str, medium: Medium) -> dict[str, Any]:
    """What the medium adds: its length in seconds, its annotated objects, and how many of them the caption names."""
    said = set(words(text))
    expressions = [set(words(o.expression)) for o in medium.objects.values() if words(o.expression)]
    return {"seconds": medium.duration_s, "objects": len(expressions), "named": sum(len(e & said) >= NAMED * len(e) for e in expressions)}


def checked(found: Mapping[str, str], media: Media, judge: ChatClient, settings: CaptionSettings, ledger: SkipLedger):
    """(medium, what the judge says of its caption); those whose reply cannot be read are listed."""
    asked, looks, rule = prompt("caption_check"), Looks(media), FrameRule(count=settings.frames, width=settings.width)
    keys = list(found)
    if settings.limit:
        keys = [keys[i] for i in sample_frames(len(keys), settings.limit)]

    def request_of(key: str, text: str):
        return judge.request(framed(looks(key, rule), asked, caption=text), Sampling(max_tokens=settings.max_tokens))

    for key, _, check in ask_each(judge, ((key, found[key]) for key in keys), request_of, lambda r: parse_caption_check(r.text), "caption", ledger):
        yield key, check


def summarize(rows: Sequence[Mapping[str, Any]], uncaptioned: Sequence[str] | None) -> dict[str, Any]:
    """Over all captions; keys that need media or a judge are absent without them. Shares are between 0 and 1."""
    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows if name in row], float)

    count, same = len(rows), Counter(normal(row["caption"]) for row in rows)
    length = column("words")
    summary: dict[str, Any] = {"captions": count}
    if uncaptioned is not None:
        summary |= {"media_without_caption": len(uncaptioned), "without_caption": list(uncaptioned)}
    summary |= {"median_words": float(np.median(length)), "least_words": int(length.min()), "most_words": int(length.max()),
                "with_time_words": float((column("time_words") > 0).mean()), "with_place_words": float((column("place_words") > 0).mean()),
                "time_words_per_100": 100 * column("time_words").sum() / max(1, length.sum()),
                "place_words_per_100": 100 * column("place_words").sum() / max(1, length.sum()),
                "refusals": float(column("refusal").mean()), "repeated_runs": float(column("repeated").mean()),
                "same_as_another": float(np.mean([same[normal(row["caption"])] > 1 for row in rows]))}
    if len(seconds := column("seconds")):
        timed = np.array([row["words"] for row in rows if "seconds" in row], float)[seconds > 0]
        if len(timed):
            summary["median_words_per_second"] = float(np.median(timed / seconds[seconds > 0]))
        if column("objects").sum():
            summary |= {"annotated_objects": int(column("objects").sum()), "objects_named": float(column("named").sum() / column("objects").sum())}
    checks = [CaptionCheck(*(row[name] for name in CaptionCheck.__dataclass_fields__)) for row in rows if "claims" in row]
    if checks:
        claims, wrong, unseen = (sum(counts) for counts in zip(*((c.claims, len(c.contradicted), len(c.unseen)) for c in checks)))
        summary |= {"checked_by_judge": len(checks), "claims_per_caption": claims / len(checks), "claims_contradicted": wrong / claims,
                    "claims_unseen": unseen / claims, "captions_with_contradiction": float(np.mean([bool(c.contradicted) for c in checks])),
                    "missing_per_caption": sum(len(c.missing) for c in checks) / len(checks)}
    return summary
