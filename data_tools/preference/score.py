"""``unipixel pairs score``: grades, verdicts or implicit rewards for the replies of a table of questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.preference import judge
from data_tools.preference.chat import ChatClient, clients
from data_tools.preference.command import ModelSettings, OutSettings, command, refuse_idle
from data_tools.preference.endpoints import read_endpoints
from data_tools.preference.frames import FrameRule, Shown
from data_tools.preference.journal import Journal
from data_tools.preference.questions import Question, read_questions, write_questions
from data_tools.preference.steps import Looks, Media, finish
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, DataError, nearest

KINDS = {"caption": "score", "frames": "score", "verdict": "verdict", "implicit": "reward"}
"""How replies are scored -> the field of a reply that it fills."""


@dataclass(kw_only=True)
class ScoreSettings:
    """What is scored, and how."""

    questions: str = setting("", "table that `unipixel pairs make` wrote")
    by: str = setting("", "caption: the judge grades sampled replies from 1 to 5 with the caption as evidence; frames: with frames of the video "
                          "instead; verdict: it compares adversarial replies with the preferred one, with --shards before frames of the video; "
                          "implicit: log-probability under the policy minus that under the reference")
    tries: int = setting(2, "how often a judge is asked whose reply cannot be read")
    max_tokens: int = setting(512, "longest reply of the judge")
    shards: list[str] = setting([], "packed folders with the videos: for --by frames and verdict, and for --by implicit of replies that were made "
                                    "from frames")
    frames: int = setting(8, "how many frames of a video a judge sees, spread evenly")
    width: int = setting(336, "pixels; wider frames are made smaller. 0: as stored")
    sample: int = setting(0, "score the replies to this many questions only, drawn by seed; the others are left unscored. 0: all")
    seed: int = setting(0, "of that draw")

    def __post_init__(self):
        if not self.questions:
            raise ConfigError("--questions is empty: name the table to score")
        if self.by not in KINDS:
            raise ConfigError(f"--by {self.by!r} must be one of {tuple(KINDS)}{nearest(self.by, KINDS)}")
        if self.tries < 1 or self.max_tokens < 1:
            raise ConfigError(f"tries={self.tries} and max_tokens={self.max_tokens} must be at least 1")
        if self.shards and self.by == "caption":
            raise ConfigError("--shards has no effect with --by caption: the judge sees no frames; --by frames shows them")
        if self.by == "frames" and not self.shards:
            raise ConfigError("--by frames needs --shards: name the packed folders with the videos")
        if self.frames < 1 or self.width < 0 or self.sample < 0:
            raise ConfigError(f"frames={self.frames} must be at least 1, width={self.width} and sample={self.sample} must not be negative")
        if self.by == "implicit":
            refuse_idle(self, ("tries", "max_tokens", "frames", "width"), "with --by implicit: no judge is asked")
        if not self.shards:
            refuse_idle(self, ("frames", "width"), f"with --by {self.by} without --shards: no frames are shown")
        if not self.sample:
            refuse_idle(self, ("seed",), "without --sample: nothing is drawn")


def main(argv: Sequence[str] | None = None) -> int:
    """``unipixel pairs score``: exit code 0, or ``EXIT_USER_ERROR`` with the reason on stderr."""
    return command("pairs score", (ScoreSettings, OutSettings, ModelSettings), score, argv)


def score(settings: ScoreSettings, out: OutSettings, models: ModelSettings) -> None:
    """Add the scores, in place of those of the same kind that the table has, and write it anew, as ``out``.

    Raises:
        UniPixelError: nothing could be scored, or the judge cannot be asked.
    """
    questions, ledger = judge.without(read_questions(settings.questions), KINDS[settings.by]), SkipLedger()
    graded = KINDS[settings.by] == "score"
    wanted = drawn([q for q in questions if settings.by == "implicit" or bool(q.of("sample")) == graded], settings)
    if settings.by == "implicit":
        scored = _rewards(settings, models, out.out, wanted, ledger)
        finish(out.out, ledger)
    else:
        with clients(models.models, ("judge",), models.journal(out.out)) as asked:
            scored = _judged(settings, asked["judge"], wanted, ledger)
            finish(out.out, ledger, asked.values())
    if not scored:
        raise DataError(f"nothing was scored by {settings.by}: {ledger.counts or 'the table holds no reply of that kind'}; see "
                        f"{out.out}.skipped.jsonl")
    write_questions(out.out, judge.with_scores(questions, scored))
    print(f"{len(scored)} replies scored by {settings.by}, {len(ledger)} not, in {out.out}")


def drawn(questions: list[Question], settings: ScoreSettings) -> list[Question]:
    """``sample`` of them, in their order; the same ones for every judge that is asked with this seed.

    Raises:
        ConfigError: there are not so many.
    """
    if not settings.sample:
        return questions
    if settings.sample > len(questions):
        raise ConfigError(f"--sample {settings.sample}: {settings.questions} holds {len(questions)} questions that --by {settings.by} can score")
    return [questions[i] for i in sorted(random.Random(settings.seed).sample(range(len(questions)), settings.sample))]


def _judged(settings: ScoreSettings, client: ChatClient, questions: list[Question], ledger: SkipLedger) -> judge.Scored:
    look = None
    if settings.shards:
        looks, rule = Looks(Media(settings.shards)), FrameRule(count=settings.frames, width=settings.width)

        def look(medium: str) -> Shown:
            return looks(medium, rule)

    ask = judge.compare if settings.by == "verdict" else judge.grade
    return ask(questions, client, ledger, tries=settings.tries, max_tokens=settings.max_tokens, look=look)


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
