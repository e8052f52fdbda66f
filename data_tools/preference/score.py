"""``unipixel pairs score``: grades, verdicts or implicit rewards for the replies of a table of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.preference import judge
from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.command import ModelSettings, OutSettings, command
from data_tools.preference.endpoints import read_endpoints
from data_tools.preference.journal import Journal
from data_tools.preference.questions import Question, read_questions, write_questions
from data_tools.preference.steps import Media, finish
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError

KINDS = ("caption", "verdict", "implicit")


@dataclass(kw_only=True)
class ScoreSettings:
    """What is scored, and how."""

    questions: str = setting("", "table that `unipixel pairs make` wrote")
    by: str = setting("", "caption: the judge grades sampled replies from 1 to 5 with the caption as evidence; verdict: it compares adversarial "
                          "replies with the preferred one; implicit: log-probability under the policy minus that under the reference")
    tries: int = setting(2, "how often a judge is asked whose reply cannot be read")
    max_tokens: int = setting(512, "longest reply of the judge")
    shards: list[str] = setting([], "packed folders with the videos, for --by implicit of replies that were made from frames")

    def __post_init__(self):
        if not self.questions:
            raise ConfigError("--questions is empty: name the table to score")
        if self.by not in KINDS:
            raise ConfigError(f"--by {self.by!r} must be one of {KINDS}")
        if self.tries < 1 or self.max_tokens < 1:
            raise ConfigError(f"tries={self.tries} and max_tokens={self.max_tokens} must be at least 1")
        if self.shards and self.by != "implicit":
            raise ConfigError(f"--shards has no effect with --by {self.by}")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs score``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs score", (ScoreSettings, OutSettings, ModelSettings), score, argv)


def score(settings: ScoreSettings, out: OutSettings, models: ModelSettings) -> None:
    """Add the scores and write the table anew, as ``out``.

    Raises:
        UniPixelError: nothing could be scored, or the judge cannot be asked.
    """
    questions, ledger = read_questions(settings.questions), SkipLedger()
    if settings.by == "implicit":
        scored = _rewards(settings, models, out.out, questions, ledger)
        finish(out.out, ledger)
    else:
        with clients(models.models, ("judge",), models.journal(out.out)) as asked:
            scored = _judged(settings, asked["judge"], questions, ledger)
            finish(out.out, ledger, asked.values())
    if not scored:
        raise DataError(f"nothing was scored by {settings.by}: {ledger.counts or 'the table holds no reply of that kind'}; see "
                        f"{out.out}.skipped.jsonl")
    write_questions(out.out, judge.with_scores(questions, scored))
    print(f"{len(scored)} replies scored by {settings.by}, {len(ledger)} not, in {out.out}")


def _judged(settings: ScoreSettings, client: ChatClient, questions: list[Question], ledger: SkipLedger) -> judge.Scored:
    ask = judge.grade if settings.by == "caption" else judge.compare
    wanted = [q for q in questions if q.of("sample")] if settings.by == "caption" else [q for q in questions if not q.of("sample")]
    return ask(wanted, client, ledger, tries=settings.tries, max_tokens=settings.max_tokens)


def _rewards(settings: ScoreSettings, models: ModelSettings, out: str, questions: list[Question], ledger: SkipLedger) -> judge.Scored:
    from data_tools.preference.local import LocalModel  # noqa: PLC0415 - imports all of transformers
    from data_tools.preference.rewards import implicit_rewards  # noqa: PLC0415

    endpoints = read_endpoints(models.models, ("policy", "reference"))
    for role, endpoint in endpoints.items():
        if endpoint.backend != "local":
            raise ConfigError(f"{models.models}: {role} has backend={endpoint.backend!r}; log-probabilities need backend: local")
    media = Media(settings.shards) if settings.shards else None
    with Journal(models.journal(out)) as journal:
        return implicit_rewards(questions, media, LocalModel(endpoints["policy"]), LocalModel(endpoints["reference"]), journal, ledger)
