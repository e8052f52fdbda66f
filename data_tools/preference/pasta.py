"""Two kinds of reply of one model (VideoPASTA, arXiv 2504.14096): it sees much and is asked plainly, or it sees little and is misled.

For each medium and each of three failure modes: questions, a preferred reply, and adversarial candidates. Two control sets change one cause
at a time (``control_instruction``: misled with dense frames; ``control_sampling``: asked plainly with sparse ones), so that what a model could
learn from style can be measured. Published are the modes, the rates and three candidates; wordings and temperatures are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_tools.preference.chat import ChatClient
from data_tools.preference.frames import FrameRule, Shown
from data_tools.preference.messages import ChatRequest, Sampling, seed_of
from data_tools.preference.parsing import parse_queries
from data_tools.preference.prompts import prompt
from data_tools.preference.questions import Candidate, Question
from data_tools.preference.steps import Looks, Media, ask_each, framed, made_by
from unipixel.config import setting
from unipixel.data.ledger import SkipLedger
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Sample

NAME = "pasta"
MODES = ("spatial", "temporal", "cross_frame")
LOOKS = {"preferred": ("dense", "answer"), "adversarial": ("sparse", "pasta_mislead"), "control_instruction": ("dense", "pasta_mislead"),
         "control_sampling": ("sparse", "answer")}
"""Role -> (frames, prompt)."""


@dataclass(kw_only=True)
class PastaSettings:
    """Questions, rates and candidates."""

    modes: list[str] = setting(list(MODES), "failure modes to make")
    queries: int = setting(10, "questions per medium and mode")
    candidates: int = setting(3, "adversarial replies per question")
    controls: bool = setting(False, "also make both control sets, as many replies each")
    dense_fps: float = setting(32.0, "frames per second of preferred replies about space; those about time see every stored frame")
    uniform_frames: int = setting(32, "frames of preferred replies across frames, spread evenly; also what the writer of the questions sees")
    sparse_fps: float = setting(1.0, "frames per second of adversarial replies")
    max_frames: int = setting(128, "frames of one request, spread evenly if the rate gives more; 0: no limit")
    width: int = setting(0, "pixels; wider frames are made smaller. 0: as stored")
    temperature: float = setting(0.7, "of adversarial replies and controls; questions and preferred replies are greedy")
    max_tokens: int = setting(512, "longest reply; a cut one is not used")
    seed: int = setting(0, "of all draws")

    def __post_init__(self):
        if not self.modes or set(self.modes) - set(MODES):
            raise ConfigError(f"modes={self.modes} must be some of {MODES}")
        for name in ("queries", "candidates", "uniform_frames", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.sparse_fps <= 0 or self.dense_fps <= self.sparse_fps:
            raise ConfigError(f"dense_fps={self.dense_fps} must be above sparse_fps={self.sparse_fps}, and that above 0")
        if self.temperature < 0 or self.max_frames < 0 or self.width < 0:
            raise ConfigError("temperature, max_frames and width must not be negative")

    def rule(self, mode: str, look: str) -> FrameRule:
        """The frames of a look at a medium for questions of one mode."""
        if look == "sparse":
            return FrameRule(fps=self.sparse_fps, count=self.max_frames, width=self.width)
        if mode == "cross_frame":
            return FrameRule(count=self.uniform_frames, width=self.width)
        return FrameRule(fps=self.dense_fps if mode == "spatial" else 0.0, count=self.max_frames, width=self.width)


@dataclass(frozen=True)
class Wanted:
    """A reply to be made."""

    question: Question
    role: str
    number: int


def make(media: Media, settings: PastaSettings, writer: ChatClient, answerer: ChatClient, ledger: SkipLedger, limit: int = 0) -> list[Question]:
    """Questions with their preferred reply and all candidates that could be made; a question without a preferred reply is left out."""
    questions = _queries(media, settings, writer, ledger, limit)
    roles = ["preferred", "adversarial", *(("control_instruction", "control_sampling") if settings.controls else ())]
    wanted = ((f"{q.question_id}/{role}/{n}", Wanted(q, role, n)) for q in questions for role in roles
              for n in range(1 if role == "preferred" else settings.candidates))
    looks, origins = Looks(media), {}

    def request_of(key: str, item: Wanted) -> ChatRequest:
        shown = looks(item.question.medium, settings.rule(item.question.mode, LOOKS[item.role][0]))
        request = _request(item, shown, settings, answerer)
        origins[key] = made_by(answerer, prompt(LOOKS[item.role][1]), request, shown)
        return request

    found: dict[str, list[Candidate]] = {}
    for key, item, text in ask_each(answerer, wanted, request_of, lambda reply: reply.text, "replies", ledger):
        found.setdefault(item.question.question_id, []).append(Candidate(item.role, item.number, text, origins.pop(key)))
    made: list[Question] = []
    for q in questions:
        question = Question(**vars(q) | {"candidates": tuple(found.get(q.question_id, ()))})
        if question.of("preferred"):
            made.append(question)
        else:
            ledger.skip(NAME, q.question_id, "no_preferred", f"no preferred reply; {len(question.candidates)} others are left out with it")
    return made


def _queries(media: Media, settings: PastaSettings, writer: ChatClient, ledger: SkipLedger, limit: int) -> list[Question]:
    asked, sampling = prompt("pasta_queries"), Sampling(max_tokens=settings.max_tokens)
    looks, rule = Looks(media), FrameRule(count=settings.uniform_frames, width=settings.width)

    def request_of(key: str, item: tuple[str, str]) -> ChatRequest:
        medium, mode = item
        return writer.request(framed(looks(medium, rule), asked, mode=mode, count=settings.queries), sampling)

    def items() -> Iterator[tuple[str, tuple[str, str]]]:
        for medium in media.first(limit):
            modes: list[str] = []
            with ledger.catching(NAME, medium):
                sample = media.sample(medium)
                if sample.medium.kind != "frames":
                    raise SampleError(f"a medium of kind {sample.medium.kind!r} has no frames to leave out", reason="no_video")
                modes = [mode for mode in settings.modes if _differ(sample, mode, settings, ledger)]
            yield from ((f"{medium}/{mode}", (medium, mode)) for mode in modes)

    questions = []
    for key, (medium, mode), queries in ask_each(writer, items(), request_of, lambda r: parse_queries(r.text, settings.queries), "questions", ledger):
        made = {"generator": writer.endpoint.identity, "prompt": asked.provenance, "source": dict(media.sample(medium).medium.source)}
        questions += [Question(f"{key}/{n}", NAME, medium, query, mode, origin=made) for n, query in enumerate(queries)]
    return questions


def _differ(sample: Sample, mode: str, settings: PastaSettings, ledger: SkipLedger) -> bool:
    """Whether the dense look holds more frames than the sparse one; else the rejected side would differ by its instruction only."""
    dense, sparse = (len(settings.rule(mode, look).choose(sample.medium.frame_times)) for look in ("dense", "sparse"))
    if dense > sparse:
        return True
    with ledger.catching(NAME, f"{sample.key}/{mode}"):
        raise SampleError(f"{dense} frames seen densely, {sparse} seen sparsely: lower sparse_fps, raise max_frames or uniform_frames, or pack more "
                          "frames per second", reason="sampling_equal")
    return False


def _request(item: Wanted, shown: Shown, settings: PastaSettings, answerer: ChatClient) -> ChatRequest:
    name, values = LOOKS[item.role][1], {"question": item.question.prompt}
    if name == "pasta_mislead":
        values |= {"mode": item.question.mode, "candidate": item.number}
    sampling = Sampling(max_tokens=settings.max_tokens) if item.role == "preferred" else Sampling(
        temperature=settings.temperature, max_tokens=settings.max_tokens, sample=item.number,
        seed=seed_of(settings.seed, item.question.question_id, item.role, item.number))
    return answerer.request(framed(shown, prompt(name), **values), sampling)
