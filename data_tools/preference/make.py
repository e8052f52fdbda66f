"""``unipixel pairs make correctness|pasta|hound``: questions about packed media with replies that are right, wrong, or to be ranked."""

from __future__ import annotations

from collections.abc import Sequence

from data_tools.preference import correctness, hound, pasta
from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.command import MediaSettings, ModelSettings, OutSettings, command
from data_tools.preference.questions import Question, write_questions
from data_tools.preference.steps import Media, finish
from unipixel.data.ledger import SkipLedger
from unipixel.errors import DataError


def correctness_main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs make correctness``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    def run(where: MediaSettings, out: OutSettings, settings: correctness.CorrectnessSettings) -> None:
        ledger = SkipLedger()
        _save(correctness.make(Media(where.shards), settings, ledger, where.limit), out.out, ledger)

    return command("pairs make correctness", (MediaSettings, OutSettings, correctness.CorrectnessSettings), run, argv)


def pasta_main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs make pasta``: exit codes as above."""
    def run(where: MediaSettings, out: OutSettings, models: ModelSettings, settings: pasta.PastaSettings) -> None:
        ledger, media = SkipLedger(), Media(where.shards)
        with clients(models.models, ("writer", "answerer"), models.journal(out.out)) as asked:
            _save(pasta.make(media, settings, asked["writer"], asked["answerer"], ledger, where.limit), out.out, ledger, asked.values())

    return command("pairs make pasta", (MediaSettings, OutSettings, ModelSettings, pasta.PastaSettings), run, argv)


def hound_main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs make hound``: exit codes as above."""
    def run(where: MediaSettings, out: OutSettings, models: ModelSettings, settings: hound.HoundSettings) -> None:
        ledger, media = SkipLedger(), Media(where.shards)
        with clients(models.models, ("captioner", "writer", "answerer"), models.journal(out.out)) as asked:
            made = hound.make(media, settings, asked["captioner"], asked["writer"], asked["answerer"], ledger, where.limit)
            _save(made, out.out, ledger, asked.values())

    return command("pairs make hound", (MediaSettings, OutSettings, ModelSettings, hound.HoundSettings), run, argv)


def _save(questions: list[Question], out: str, ledger: SkipLedger, asked: Sequence[ChatClient] = ()) -> None:
    finish(out, ledger, asked)
    if not questions:
        raise DataError(f"no question could be made, {len(ledger)} items were skipped {ledger.counts}; see {out}.skipped.jsonl")
    write_questions(out, questions)
    replies = sum(len(q.candidates) for q in questions)
    print(f"{len(questions)} questions with {replies} replies in {out}")
