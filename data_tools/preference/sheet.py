"""``unipixel pairs sheet``: a page of frames, questions and replies for a person, and a table to fill in that ``pairs agree`` reads.

The judge's opinions are on neither: who has seen them does not check them.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from data_tools.preference.agree import GRADE, PLACE, REPLY, fingerprint
from data_tools.preference.command import command
from data_tools.preference.frames import FrameRule
from data_tools.preference.parsing import FLAGS, HIGHEST, LOWEST
from data_tools.preference.questions import REJECTABLE, Question, read_questions
from data_tools.preference.steps import Looks, Media, skip_file
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError

TEMPLATE = Path(__file__).parents[1] / "templates" / "reply_sheet.html.j2"


@dataclass(kw_only=True)
class SheetSettings:
    """What a person is asked."""

    questions: str = setting("", "table that `unipixel pairs make` or `score` wrote")
    shards: list[str] = setting([], "packed folders with the videos")
    out: str = setting("", "page to write, .html; the table to fill in stands beside it as .csv")
    sample: int = setting(50, "how many questions, divided evenly over the failure modes; 0: all")
    frames: int = setting(8, "frames per video, spread evenly")
    width: int = setting(336, "pixels; wider frames are made smaller. 0: as stored")
    seed: int = setting(0, "of the draw")

    def __post_init__(self):
        for name in ("questions", "shards", "out"):
            if not getattr(self, name):
                raise ConfigError(f"--{name} is empty")
        if Path(self.out).suffix != ".html":
            raise ConfigError(f"--out {self.out!r} must end in .html")
        for path in (Path(self.out), self.table):
            if path.exists():
                raise ConfigError(f"{str(path)!r} exists, and somebody may have filled it in: remove it or name another --out")
        if self.sample < 0 or self.frames < 1 or self.width < 0:
            raise ConfigError(f"sample={self.sample} and width={self.width} must not be negative, frames={self.frames} must be at least 1")

    @property
    def table(self) -> Path:
        return Path(self.out).with_suffix(".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs sheet``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs sheet", (SheetSettings,), sheet, argv)


def sheet(settings: SheetSettings) -> None:
    """
    Raises:
        DataError: no question has a reply to judge, or none of their videos can be shown.
    """
    questions, ledger, looks = read_questions(settings.questions), SkipLedger(), Looks(Media(settings.shards))
    chosen = draw([q for q in questions if q.of("sample", *REJECTABLE)], settings.sample, settings.seed)
    rule, views = FrameRule(count=settings.frames, width=settings.width), []
    for question in chosen:
        with ledger.catching("sheet", question.question_id):
            views.append(view(question, looks, rule))
    if not views:
        raise DataError(f"{settings.questions}: no reply to judge with a video to show {ledger.counts or ''}")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        questions=views, table=settings.table.name, lowest=LOWEST, highest=HIGHEST, flags=FLAGS)
    Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
    replace_file(settings.table, rows_to_fill(views).encode())
    replace_file(Path(settings.out), page.encode())
    ledger.write(skip_file(settings.out))
    print("\n".join(ledger.summary()) or "nothing skipped")
    print(f"{sum(len(v['replies']) for v in views)} replies to {len(views)} questions in {settings.out}; fill in {settings.table}, then "
          f"`unipixel pairs agree --first {settings.questions} --second {settings.table}`")


def draw(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """``count`` questions, as evenly over the failure modes as they allow, in their own order; all of them if there are no more, or for 0."""
    if not count or count >= len(questions):
        return list(questions)
    places: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        places.setdefault(question.mode, []).append(position)
    rng = random.Random(seed)
    for mode in sorted(places):
        rng.shuffle(places[mode])
    turns = [(turn, mode, position) for mode, found in places.items() for turn, position in enumerate(found)]
    return [questions[position] for position in sorted(position for *_, position in sorted(turns)[:count])]


def view(question: Question, looks: Looks, rule: FrameRule) -> dict[str, Any]:
    """What the page shows of a question. Raises :class:`SampleError`."""
    shown = looks(question.medium, rule)
    frames = [{"uri": picture.url, "time": time} for picture, time in zip(shown.pictures, shown.times, strict=True)]
    graded = bool(question.of("sample"))
    return {"question_id": question.question_id, "medium": question.medium, "mode": question.mode, "prompt": question.prompt, "graded": graded,
            "reference": question.reference, "preferred": [c.text for c in question.of("preferred")], "frames": frames,
            "replies": [{"role": c.role, "number": c.number, "text": c.text} for c in question.of("sample", *REJECTABLE)]}


def rows_to_fill(views: Sequence[dict[str, Any]]) -> str:
    """CSV with a row per reply and a column per opinion that is asked of some of them."""
    graded = any(v["graded"] for v in views)
    judged = any(not v["graded"] for v in views)
    out = io.StringIO()
    rows = csv.DictWriter(out, [*PLACE, REPLY, *([GRADE] if graded else []), *(FLAGS if judged else []), "comment"], restval="", lineterminator="\n")
    rows.writeheader()
    for shown in views:
        rows.writerows({"question_id": shown["question_id"], "role": r["role"], "number": r["number"], REPLY: fingerprint(r["text"])}
                       for r in shown["replies"])
    return out.getvalue()
