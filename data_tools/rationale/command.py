"""``unipixel film rationales``: write rationales for questions of packed films or clips, or check a file of them.

What holds goes to ``--out``, what does not to ``OUT.rejected.jsonl``, where nothing reads it for training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.convert.tables import read_rows
from data_tools.preference.chat import clients
from data_tools.preference.command import EXIT_FOUND, MediaSettings, ModelSettings, OutSettings, command
from data_tools.preference.steps import Media, finish
from data_tools.rationale.context import Context
from data_tools.rationale.generate import RationaleSettings, make
from data_tools.rationale.verify import Finding, Verdict, verify
from unipixel.config import setting
from unipixel.data.index import replace_file
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError, SampleError


@dataclass(kw_only=True)
class RationaleArguments(OutSettings):
    """Where questions come from and rationales go."""

    shards: list[str] = setting([], "packed folders with the questions")
    limit: int = setting(0, "use this many media only; 0: all")
    models: str = setting("", "YAML file with the role writer")
    replies: str = setting("", "journal of all replies; a stopped run goes on from it. Default: replies.jsonl beside --out")
    verify_only: bool = setting(False, "ask no model: check the rationales of --records")
    records: str = setting("", "rationales of an earlier run, with --verify_only")

    def __post_init__(self):
        super().__post_init__()
        if self.verify_only:
            if without := [f"--{name}" for name in ("shards", "limit", "models", "replies") if getattr(self, name)]:
                raise ConfigError(f"{without} have no effect with --verify_only: records hold what they are checked against")
            if not self.records or not Path(self.records).is_file():
                raise ConfigError(f"--records {self.records!r} is not a file")
        else:
            if self.records:
                raise ConfigError("--records is for --verify_only true")
            self.media, self.client = MediaSettings(shards=self.shards, limit=self.limit), ModelSettings(models=self.models, replies=self.replies)


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel film rationales``: exit code 0; with ``--verify_only`` ``EXIT_FOUND`` (1) where a rationale fails; 2 for a wrong call."""
    def run(args: RationaleArguments, settings: RationaleSettings) -> int:
        if args.verify_only and settings != RationaleSettings():
            raise ConfigError("--verify_only asks no model: settings of how to ask have no effect")
        return check(args) if args.verify_only else generate(args, settings)

    return command("film rationales", (RationaleArguments, RationaleSettings), run, argv)


def generate(args: RationaleArguments, settings: RationaleSettings) -> int:
    """
    Raises:
        DataError: no question got a readable reply.
    """
    ledger = SkipLedger()
    with clients(args.client.models, ("writer",), args.client.journal(args.out)) as asked:
        records = make(Media(args.media.shards), settings, asked["writer"], ledger, args.media.limit)
        finish(args.out, ledger, asked.values())
    if not records:
        raise DataError(f"no rationale could be made, {len(ledger)} items were skipped {ledger.counts}; see {args.out}.skipped.jsonl")
    _save(records, args.out)
    return 0


def check(args: RationaleArguments) -> int:
    """Verdicts anew, from what the records hold. Raises :class:`DataError` where there is no record."""
    records = [row | {"verdict": _verdict(row).plain()} for _, row in read_rows(Path(args.records))]
    if not records:
        raise DataError(f"{args.records} holds no record")
    for record in records:
        for finding in record["verdict"]["reasons"]:
            print(f"{record.get('qid')}: {finding['reason']}: {finding['cited']!r}: {finding['message']}")
    return EXIT_FOUND if _save(records, args.out) else 0


def _verdict(row: dict[str, Any]) -> Verdict:
    try:
        context, text = Context.read(row.get("context")), row.get("generated_cot")
        if not isinstance(text, str) or not text.strip():
            raise SampleError("the record has no generated_cot", reason="no_rationale")
    except SampleError as error:
        return Verdict((Finding(error.reason, "", str(error)),), {})
    words = (row.get("question"), *(row.get("answer_options") or ()), row.get("correct_answer_text"))
    return verify(text, context, told=" / ".join(map(str, words)))


def _save(records: Sequence[dict[str, Any]], out: str) -> int:
    """Write both files, the good ones last, and print what was found; returns the number of rejected ones."""
    good = [r for r in records if r["verdict"]["ok"]]
    bad = [r for r in records if not r["verdict"]["ok"]]
    for path, rows in ((Path(f"{out}.rejected.jsonl"), bad), (Path(out), good)):
        replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    reasons = Counter(reason for r in bad for reason in {f["reason"] for f in r["verdict"]["reasons"]})
    print(f"{len(good)} rationales in {out}, {len(bad)} in {out}.rejected.jsonl {dict(reasons.most_common()) or ''}")
    return len(bad)
