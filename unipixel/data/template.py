"""Prompts: how an example becomes a dialogue, and which parts of it are supervised. The only place where wording lives.

Evaluation uses the first wording of each pool; training draws one by a hash of the sample, so that no run depends on global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from unipixel.config import setting
from unipixel.errors import ConfigError
from unipixel.sample import Example, Sample, Segment

SYSTEM = "You are a helpful assistant."
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
SEG, REF, MEM = "<|seg|>", "<|ref|>", "<|mem|>"
SPECIAL_TOKENS = (REF, SEG, MEM)
"""Added to the tokenizer in this order, as released checkpoints have them."""

EVIDENCE_REQUESTS = (
    "Please answer the question and give the temporal and spatial evidence.",
    "Answer with the time segments and the masks that support your answer.",
    "Which option is right? Show when and where the evidence is.",
    "Give the answer, the moments that prove it, and segment the evidence.",
    "Choose an option and ground it in time and in space.",
)
REFER_REQUESTS = (
    "Please segment the {query} in this {medium}.",
    "Can you segment the {query} in this {medium}?",
    "Segment the {query} shown in this {medium}.",
    "Where is the {query} in this {medium}? Please give its mask.",
)
REFER_REPLIES = ("The target is {seg}.", "The result is {seg}.", "Sure, the segmentation mask is {seg}.", "Sure, it is {seg}.", "{seg}.")


@dataclass(frozen=True, kw_only=True)
class TemplateSettings:
    """Wording that changes what the model sees or says."""

    answer_style: str = setting("letter", "what stands after 'Answer:' for a question with options: the option's letter or its text")
    paraphrase: bool = setting(True, "draw request wordings (training); evaluation always uses the first one")
    show_options: bool = setting(True, "list the options in the prompt")
    use_subtitles: bool = setting(False, "put the subtitles, with their times, before the question")

    def __post_init__(self):
        if self.answer_style not in ("letter", "text"):
            raise ConfigError(f"answer_style={self.answer_style!r} must be 'letter' or 'text'")
        if self.answer_style == "letter" and not self.show_options:
            raise ConfigError("answer_style='letter' needs show_options=true: a letter means nothing without the list")


@dataclass(frozen=True)
class Rendered:
    """A whole dialogue in the model's chat format, cut into spans of (text, supervised)."""

    spans: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.spans)


def letter(index: int) -> str:
    return chr(ord("A") + index)


def format_segments(segments: Sequence[Segment]) -> str:
    """``[[0.5, 2.3], [5.1, 7.8]]`` with one decimal."""
    def tenth(seconds: float) -> Decimal:  # decimal: as binary floats 9.45 would give 9.4 and 5.45 would give 5.5
        return Decimal(repr(seconds)).quantize(Decimal("0.1"), ROUND_HALF_UP)

    return "[" + ", ".join(f"[{tenth(s)}, {tenth(e)}]" for s, e in segments) + "]"


def normalise_query(expression: str) -> str:
    """Referring expression as the query templates want it: no full stops, lower-case start, no leading article."""
    query = expression.strip(". ")
    query = query[:1].lower() + query[1:]
    for article in ("the ", "an ", "a "):
        query = query.removeprefix(article)
    return query


def question_text(example: Example, medium_kind: str, subtitles: Sequence, settings: TemplateSettings, wording: int = 0) -> str:
    """The user's turn, without the visual tokens."""
    if example.task == "refer":
        medium = "image" if medium_kind == "image" else "video"
        return REFER_REQUESTS[wording % len(REFER_REQUESTS)].format(query=normalise_query(example.question), medium=medium)
    lines = [f"[{s.start_s:.1f} - {s.end_s:.1f}] {s.text}" for s in subtitles] if settings.use_subtitles else []
    lines.append(example.question)
    if example.options and settings.show_options:
        lines += ["Options:", *(f"({letter(i)}) {option}" for i, option in enumerate(example.options))]
    if example.segments is not None or example.targets:
        lines.append(EVIDENCE_REQUESTS[wording % len(EVIDENCE_REQUESTS)])
    return "\n".join(lines)


def reply_text(example: Example, settings: TemplateSettings, wording: int = 0) -> str:
    """The reply that is trained for. Parts that were not annotated are left out, never invented."""
    masks = ", ".join([SEG] * len(example.targets))
    if example.task == "refer":
        return REFER_REPLIES[wording % len(REFER_REPLIES)].format(seg=masks)
    answer = letter(example.options.index(example.answer)) if example.options and settings.answer_style == "letter" else example.answer
    parts = [f"Answer: {answer.strip().removesuffix('.')}."]
    if example.segments is not None:
        parts.append(f"Temporal Evidence: {format_segments(example.segments)}.")
    if masks:
        parts.append(f"Spatial Evidence: {masks}.")
    return " ".join(parts)


def turns_of(example: Example, sample: Sample, settings: TemplateSettings, wording: int = 0) -> list[tuple[str, str]]:
    """[(role, text)] of one example."""
    if example.task == "chat":
        return [(turn.role, turn.text) for turn in example.turns]
    medium = sample.medium
    return [("user", question_text(example, medium.kind, medium.subtitles, settings, wording)),
            ("assistant", reply_text(example, settings, wording))]


def render_turns(turns: Sequence[tuple[str, str]], *, has_video: bool) -> Rendered:
    """ChatML as Qwen2.5-VL has it. The visual placeholder stands once, at the start of the first user turn; the collator repeats it.

    Supervised: each assistant text and the ``<|im_end|>`` that closes it. A dialogue that ends with the user's turn gets the
    generation prompt and supervises nothing after it.
    """
    spans: list[tuple[str, bool]] = [(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", False)]
    visual = VISION_START + VIDEO_PAD + VISION_END if has_video else ""
    for role, text in turns:
        if role == "user":
            spans.append((f"<|im_start|>user\n{visual}{text}<|im_end|>\n<|im_start|>assistant\n", False))
            visual = ""
        else:
            spans += [(f"{text}<|im_end|>", True), ("\n", False)]
    if turns[-1][0] == "assistant":
        spans.pop()
    return Rendered(tuple(spans))


def render(sample: Sample, settings: TemplateSettings = TemplateSettings(paraphrase=False), examples: Sequence[int] = (0,),
           wordings: Sequence[int] = (0,)) -> Rendered:
    """The training dialogue of some examples of a sample, one after the other as its turns."""
    turns = [turn for i, wording in zip(examples, wordings, strict=True) for turn in turns_of(sample.examples[i], sample, settings, wording)]
    return render_turns(turns, has_video=sample.medium.kind != "none")


def render_prompt(sample: Sample, settings: TemplateSettings, example: int = 0) -> Rendered:
    """The evaluation prompt: everything up to the assistant's first word."""
    first = turns_of(sample.examples[example], sample, settings)[:1]
    return render_turns(first, has_video=sample.medium.kind != "none")
