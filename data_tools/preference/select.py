"""From judged replies to pairs: which reply is chosen, which rejected, and a balanced part of the whole.

Everything is a pure function of the questions and the seed. Whatever does not become a pair is listed with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_tools.preference.parsing import RIGHT, Verdict
from data_tools.preference.questions import REJECTABLE, Candidate, Question
from data_tools.preference.textual import normal, words
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.data.media import stable_rng
from unipixel.errors import ConfigError, DataError, SampleError
from unipixel.sample import FAILURE_MODES, PreferencePair

CHOICES = ("random", "max_margin", "length_matched")
JUDGED = ("pasta",)
"""Recipes whose adversarial replies need a verdict."""


@dataclass(kw_only=True)
class SelectSettings:
    """Which replies make a pair."""

    rejected: str = setting("adversarial", "role of the rejected reply: adversarial, or one of the controls control_instruction and control_sampling")
    per_question: int = setting(1, "pairs of a question with a preferred reply, each with another rejected one; 0: all")
    rank_by: str = setting("score", "what replies of role sample are ranked by: score (of a judge) or reward (implicit)")
    normalize: bool = setting(False, "rank by the reward per token")
    choice: str = setting("random", "of the allowed pairs of a question: random, max_margin, or length_matched (the nearest numbers of words)")
    min_margin: float = setting(1.0, "least score or reward of the chosen reply above the rejected one")
    total: int = setting(0, "pairs wanted in all, exactly, divided by mode_shares; 0: all that there are")
    mode_shares: list[str] = setting([], "MODE=SHARE per failure mode, for total; empty: as many of each mode")
    select_seed: int = setting(0, "of the draws")

    def __post_init__(self):
        if self.rejected not in REJECTABLE:
            raise ConfigError(f"rejected={self.rejected!r} must be one of {REJECTABLE}")
        if self.rank_by not in ("score", "reward"):
            raise ConfigError(f"rank_by={self.rank_by!r} must be score or reward")
        if self.normalize and self.rank_by != "reward":
            raise ConfigError("normalize has no effect with rank_by=score")
        if self.choice not in CHOICES:
            raise ConfigError(f"choice={self.choice!r} must be one of {CHOICES}")
        if self.min_margin <= 0:
            raise ConfigError(f"min_margin={self.min_margin} must be positive: equal replies are no preference")
        if self.per_question < 0 or self.total < 0:
            raise ConfigError(f"per_question={self.per_question} and total={self.total} must not be negative")
        if self.mode_shares and not self.total:
            raise ConfigError("mode_shares has no effect without total")
        self.shares  # noqa: B018 - wrong ones are an error before anything is read

    @property
    def shares(self) -> dict[str, float]:
        """Mode -> share, as given; empty for equal ones."""
        found: dict[str, float] = {}
        for entry in self.mode_shares:
            mode, _, share = entry.partition("=")
            try:
                found[mode] = float(share)
            except ValueError:
                raise ConfigError(f"mode_shares: {entry!r} is not MODE=SHARE") from None
            if mode not in FAILURE_MODES or not 0 < found[mode] < float("inf"):
                raise ConfigError(f"mode_shares: {entry!r} must be one of {FAILURE_MODES} with a positive share")
        return found


@dataclass(frozen=True)
class Made:
    """A pair with the question that it belongs to."""

    question: Question
    pair: PreferencePair


def select(questions: Sequence[Question], settings: SelectSettings, ledger: SkipLedger) -> list[Made]:
    """Pairs of all questions, in their order. Questions without a usable pair are listed, unscored replies too."""
    made: list[Made] = []
    for question in questions:
        with ledger.catching("select", question.question_id):
            made += _from_preferred(question, settings, ledger) if question.of("preferred") else [_ranked(question, settings, ledger)]
    return made


def _from_preferred(question: Question, settings: SelectSettings, ledger: SkipLedger) -> list[Made]:
    """The preferred reply against those of one role that pass."""
    preferred = question.of("preferred")[0]
    found: list[Made] = []
    seen = {normal(preferred.text)}
    for candidate in question.of(settings.rejected):
        with ledger.catching("select", f"{question.question_id}/{candidate.role}/{candidate.number}"):
            if question.recipe in JUDGED:
                _check_verdict(candidate)
            text = normal(candidate.text)
            if text in seen:
                raise SampleError("the same words as the preferred reply, or as another rejected one", reason="equal_sides")
            seen.add(text)
            found.append(Made(question, _pair(question, preferred, candidate)))
    if not found:
        raise SampleError(f"no usable reply of role {settings.rejected!r}", reason="no_rejected")
    order = stable_rng(settings.select_seed, question.question_id).permutation(len(found))
    kept = sorted(order[:settings.per_question or None].tolist())
    if len(kept) < len(found):
        ledger.note(f"further rejected replies beyond per_question={settings.per_question}", len(found) - len(kept))
    return [found[i] for i in kept]


def _check_verdict(candidate: Candidate) -> None:
    if candidate.verdict is None:
        raise SampleError("no verdict: `unipixel pairs score --by verdict` gives it", reason="unjudged")
    verdict = Verdict(**candidate.verdict)
    if not verdict.keep:
        failed = [name for name in ("misaligned", "different", "preferred_sane") if not getattr(verdict, name)]
        raise SampleError(f"verdict not {' and not '.join(failed)}: {verdict.why}", reason="verdict")


def _ranked(question: Question, settings: SelectSettings, ledger: SkipLedger) -> Made:
    """One pair of a question's sampled replies: a right one against a wrong one (scores), or a better one against a worse one (rewards)."""
    values: list[tuple[float, Candidate]] = []
    for candidate in question.of("sample"):
        value = _value(candidate, settings)
        if value is None:
            ledger.note(f"replies without a {settings.rank_by}: not ranked")
        else:
            values.append((value, candidate))
    if len(values) < 2:
        raise SampleError(f"{len(values)} replies with a {settings.rank_by}", reason="unscored")
    if settings.rank_by == "score":
        right = [v for v in values if v[0] >= RIGHT]
        wrong = [v for v in values if v[0] < RIGHT]
        if not right or not wrong:
            raise SampleError(f"scores {[v for v, _ in values]} are all on one side of {RIGHT}", reason="all_right" if right else "all_wrong")
        allowed = [(c, r) for c in right for r in wrong]
    else:
        allowed = [(c, r) for c in values for r in values]
    allowed = [(c, r) for c, r in allowed if c[0] - r[0] >= settings.min_margin and normal(c[1].text) != normal(r[1].text)]
    if not allowed:
        raise SampleError(f"no two different replies are min_margin={settings.min_margin:g} apart", reason="margin")
    (_, chosen), (_, rejected) = _choose(allowed, question, settings)
    return Made(question, _pair(question, chosen, rejected))


def _value(candidate: Candidate, settings: SelectSettings) -> float | None:
    if settings.rank_by == "score":
        return candidate.score
    if candidate.reward is None:
        return None
    return candidate.reward / candidate.tokens if settings.normalize else candidate.reward


def _choose(allowed: Sequence[tuple], question: Question, settings: SelectSettings) -> tuple:
    """Ties go to the random order, which depends on the seed and the question only."""
    shuffled = [allowed[i] for i in stable_rng(settings.select_seed, question.question_id).permutation(len(allowed))]
    if settings.choice == "random":
        return shuffled[0]
    if settings.choice == "max_margin":
        return max(shuffled, key=lambda pair: pair[0][0] - pair[1][0])
    return min(shuffled, key=lambda pair: abs(len(words(pair[0][1].text)) - len(words(pair[1][1].text))))


def _pair(question: Question, chosen: Candidate, rejected: Candidate) -> PreferencePair:
    """The pair with all of its provenance."""
    def side(candidate: Candidate) -> dict[str, Any]:
        known = {name: getattr(candidate, name) for name in ("score", "verdict", "reward") if getattr(candidate, name) is not None}
        return {"role": candidate.role, "number": candidate.number, **candidate.origin, **known, **({"judged": candidate.judged} if known else {})}

    origin = {"recipe": question.recipe, "question_id": question.question_id, **question.origin, "chosen": side(chosen), "rejected": side(rejected)}
    name = f"{question.question_id}/{chosen.role}{chosen.number}-{rejected.role}{rejected.number}"
    return PreferencePair(name, chosen.text, rejected.text, question.mode, origin=origin)


def balance(made: Sequence[Made], settings: SelectSettings, ledger: SkipLedger) -> list[Made]:
    """Exactly ``total`` pairs, divided over the modes; within a mode first one pair of every question, then the second ones.

    Raises:
        DataError: a mode has fewer pairs than its share.
    """
    if not settings.total:
        return list(made)
    present = Counter(m.pair.failure_mode for m in made)
    shares = settings.shares or dict.fromkeys(sorted(present), 1.0)
    quotas = divide(settings.total, shares)
    short = {mode: f"{present[mode]} of {n}" for mode, n in quotas.items() if present[mode] < n}
    if short:
        most = min((present[mode] * sum(shares.values()) / share for mode, share in shares.items()), default=0)
        raise DataError(f"total={settings.total} wants more pairs than there are of some modes ({short}): make more, or set total to at most "
                        f"{int(most)}")
    taken: set[str] = set()
    for mode, quota in quotas.items():
        rounds: Counter[str] = Counter()
        ranked = []
        for m in made:
            if m.pair.failure_mode == mode:
                ranked.append((rounds[m.question.question_id], float(stable_rng(settings.select_seed, m.pair.pair_id).random()), m.pair.pair_id))
                rounds[m.question.question_id] += 1
        taken |= {name for *_, name in sorted(ranked)[:quota]}
    ledger.note(f"good pairs beyond total={settings.total}", len(made) - len(taken))
    return [m for m in made if m.pair.pair_id in taken]


def divide(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``total`` in whole parts in proportion to ``shares``: the largest remainders are rounded up, ties in the order of the names."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: (parts[n] - exact[n], n))[:total - sum(parts.values())]:
        parts[name] += 1
    return parts
