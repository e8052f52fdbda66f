"""Prompts: how an example becomes a dialogue, and which parts of it are supervised. The only place where wording lives.

Evaluation uses the first wording of each pool; training draws one by a hash of the sample, so that no run depends on global state. The
first wordings, the region prefix and the replies are those that the released UniPixel weights were trained on, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from unipixel.config import setting
from unipixel.data import film_context
from unipixel.errors import ConfigError, SampleError
from unipixel.sample import Example, Medium, Region, Sample, Segment

SYSTEM = "You are a helpful assistant."
TEMPORAL = 2
"""Frames of a temporal cell, which a region line counts in pairs."""
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
PICTURE = VISION_START + VIDEO_PAD + VISION_END
"""A visual block. Features take the place of its placeholder, so that the token there is the same for pictures and videos."""
STYLES = ("letter", "text", "rationale")
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
SENTENCE_REQUESTS = (
    "{query} Please provide the segmentation mask.",
    "{query} Answer with a segmentation mask.",
    "{query} Show it with a mask.",
    "{query} Segment what is meant.",
    "{query} Please mark it in the {medium} with a mask.",
)
EXPLANATORY_REQUESTS = (
    "{query} Please provide the segmentation mask and explain why.",
    "{query} Segment it and give the reason.",
    "{query} Answer with a mask and an explanation.",
    "{query} Show it with a mask and say why it is that.",
    "{query} Please mark it in the {medium} and explain your choice.",
)
QUESTION_REQUESTS = (
    "{query} Please answer the question and provide the segmentation mask.",
    "{query} Give the answer and segment it.",
    "{query} Answer in words and with a mask.",
    "{query} Name it and show it with a mask.",
    "{query} Reply to the question and mark the answer in the {medium}.",
)
DESCRIPTION_REQUESTS = (
    "Please segment the object according to the description: {query}",
    "Segment the object that this describes: {query}",
    "Which object of the {medium} does this describe? Give its mask. {query}",
    "Find the described object and provide its mask: {query}",
    "Description of an object: {query} Please segment it.",
)
LOCATE_REQUESTS = (
    "{query}. Please localize the relevant objects with IDs.",
    "{query}. Segment each of these objects by its ID.",
    "{query}. Give the mask of every object that is pointed at, with its ID.",
    "{query}. Where are the numbered objects? Answer with their IDs and masks.",
    "{query}. Before you answer, show the objects with IDs.",
    "{query}. List the IDs with a segmentation mask each.",
)
REGION_DETAIL_REQUESTS = (
    "Please give a detailed description of the highlighted object {region} in the {medium}.",
    "Describe the object {region} in the {medium} in detail.",
    "What can you say about {region}? Be thorough.",
    "Tell me everything you see of {region} in this {medium}.",
    "Give a full account of the region {region}.",
    "How does {region} look, and what is it doing? Answer in detail.",
)
REGION_SHORT_REQUESTS = (
    "Briefly describe {region}.",
    "What is {region}?",
    "Give a short caption of the object {region} in the {medium}.",
    "In a few words, what does {region} show?",
    "Name the object {region} and describe it briefly.",
    "One short description of {region}, please.",
)
REGION_REQUESTS = {"region_description": REGION_DETAIL_REQUESTS, "region_short": REGION_SHORT_REQUESTS}
"""Wordings for a dialogue about a region that comes without a question, by its question type: its first turn is a bare ``[label]``."""
REQUESTS = {"query": REFER_REQUESTS, "sentence": SENTENCE_REQUESTS, "explanatory": EXPLANATORY_REQUESTS, "question": QUESTION_REQUESTS,
            "description": DESCRIPTION_REQUESTS}
"""Wordings of a referring example by its form."""
REGIONS_VIDEO = "Here is a video with {frames} frames denoted as <1> to <{frames}>. The highlighted regions are as follows:\n"
REGIONS_IMAGE = "Here is an image with the following highlighted regions:\n"
REASONING, FINAL_ANSWER = "Reasoning:", "Final Answer:"
REFER_REPLIES = ("The target is {seg}.", "The result is {seg}.", "Sure, the segmentation mask is {seg}.", "Sure, it is {seg}.", "{seg}.")


@dataclass(frozen=True, kw_only=True)
class TemplateSettings:
    """Wording that changes what the model sees or says."""

    answer_style: str = setting("letter", "what stands after 'Answer:' for a question with options: the option's letter or its text; rationale: "
                                          "replies of two lines, 'Reasoning:' and 'Final Answer:'")
    paraphrase: bool = setting(True, "draw request wordings (training); evaluation always uses the first one")
    show_options: bool = setting(True, "list the options in the prompt")
    use_subtitles: bool = setting(False, "show the subtitles, with their times: before the question, or as the prompt places them")
    prompt: str = setting("plain", "plain: the video, then the question; film_interleaved: every frame a picture with what is said meanwhile behind "
                                   "it; film_classic: pictures, then lists of both")
    key_frame_hint: bool = setting(True, "films: say when the viewer paused and which picture shows it, when the key frame is shown")
    max_segments: int = setting(2048, "films: subtitle segments, silences included, shown at most: the first ones and the last")
    align: str = setting("interval", "films: what stands beside a picture: interval, all that is said until the next one; seed, the one segment "
                                     "nearest to its time (POVQA)")

    def __post_init__(self):
        for name, allowed in (("answer_style", STYLES), ("prompt", film_context.PROMPTS), ("align", film_context.ALIGNMENTS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {allowed}")
        if self.max_segments < 2:
            raise ConfigError(f"max_segments={self.max_segments} must be at least 2: the first and the last")
        if self.answer_style == "letter" and not self.show_options:
            raise ConfigError("answer_style='letter' needs show_options=true: a letter means nothing without the list")


@dataclass(frozen=True)
class ChatForm:
    """What a backbone's chat format has of its own.

    Attributes:
        system: whether it begins with a system turn.
        cell_times: seconds of each temporal cell, said in text before the cell's own visual block; ``None``: one block for the medium.
        placed: the user's turn holds its visual blocks itself, or has none.
    """

    system: bool = True
    cell_times: tuple[float, ...] | None = None
    placed: bool = False

    @property
    def visual(self) -> str:
        if self.placed:
            return ""
        return PICTURE if self.cell_times is None else "".join(f"<{t:.1f} seconds>{PICTURE}" for t in self.cell_times)


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


def refer_query(example: Example) -> str:
    """The question of a referring example as its form wants it inside the request."""
    if example.form == "query":
        return normalise_query(example.question)
    question = example.question.strip()
    return question + "?" if example.form == "question" and not question.endswith("?") else question


def seen_cells(medium: Medium, region: Region, frames: Sequence[int]) -> list[int]:
    """Temporal cells (pairs of the given frames) in which a region is visible."""
    visible = medium.objects[region.oid].track.visible
    return sorted({i // TEMPORAL for i, t in enumerate(frames) if visible[t]})


def region_prefix(example: Example, medium: Medium, frames: Sequence[int]) -> str:
    """What tells the model which tokens belong to which region: ``[label]: <1>-<2> <|mem|> …``, one line each.

    ``frames`` are the positions of the frames that the language model sees; only cells in which the region is visible are listed.
    """
    if medium.kind == "image":
        return REGIONS_IMAGE + "".join(f"[{region.label}]: {MEM}\n" for region in example.regions)
    lines = []
    for region in example.regions:
        cells = (f"<{TEMPORAL * c + 1}>-<{TEMPORAL * c + 2}> {MEM}" for c in seen_cells(medium, region, frames))
        lines.append(f"[{region.label}]: {' '.join(cells)}\n")
    return REGIONS_VIDEO.format(frames=len(frames)) + "".join(lines)


def pointed(example: Example) -> list[Region]:
    """Regions shown as a point or a box, in the order of their ``<|ref|>`` tokens: of their first mention by the user.

    Raises:
        SampleError: the user never mentions one (``region_unmentioned``): its token would stand in the reply.
    """
    text = "\n".join([example.question, *example.options, *(turn.text for turn in example.turns if turn.role == "user")])
    unmentioned = [region.label for region in example.regions if f"[{region.label}]" not in text]
    if unmentioned:
        raise SampleError(f"regions {unmentioned} are never mentioned by the user", reason="region_unmentioned", key=example.example_id)
    return sorted(example.regions, key=lambda region: text.index(f"[{region.label}]"))


def show_regions(turns: Sequence[tuple[str, str]], example: Example, medium: Medium, frames: Sequence[int]) -> list[tuple[str, str]]:
    """``turns`` with the example's regions shown: a prefix before the first user turn, or ``<|ref|>`` after each first mention."""
    turns = list(turns)
    first = next(i for i, (role, _) in enumerate(turns) if role == "user")
    if example.visual_prompt == "mask":
        turns[first] = "user", region_prefix(example, medium, frames) + turns[first][1]
        return turns
    for region in pointed(example):
        mention = f"[{region.label}]"
        at = next((i for i, (role, text) in enumerate(turns) if role == "user" and mention in text), None)
        if at is None:
            raise SampleError(f"region {mention} is mentioned in the options only, which show_options=false leaves out", reason="region_unmentioned",
                              key=example.example_id)
        turns[at] = "user", turns[at][1].replace(mention, f"{mention} {REF}", 1)
    return turns


def in_pictures(medium: Medium, settings: TemplateSettings) -> bool:
    """Whether every frame of a medium is a picture of its own that the user's turn places, instead of a part of one video."""
    return settings.prompt != "plain" and medium.kind == "frames"


def two_lines(reasoning: str, answer: str) -> str:
    """POVQA's reply; without reasoning its line is left out."""
    lines = [f"{REASONING} {' '.join(reasoning.split())}"] * bool(reasoning.strip())
    return "\n".join([*lines, f"{FINAL_ANSWER} {' '.join(answer.split())}"])


def question_text(example: Example, medium_kind: str, subtitles: Sequence, settings: TemplateSettings, wording: int = 0) -> str:
    """The user's turn, without the visual tokens."""
    medium = "image" if medium_kind == "image" else "video"
    if example.task == "refer":
        pool = REQUESTS[example.form]
        return pool[wording % len(pool)].format(query=refer_query(example), medium=medium)
    lines = [f"[{s.start_s:.1f} - {s.end_s:.1f}] {s.text}" for s in subtitles] if settings.use_subtitles else []
    lines.append(example.question)
    if example.options and settings.show_options:
        lines += ["Options:", *(f"({letter(i)}) {option}" for i, option in enumerate(example.options))]
    if example.task == "locate":
        return LOCATE_REQUESTS[wording % len(LOCATE_REQUESTS)].format(query="\n".join(lines))
    if example.segments is not None or example.targets:
        lines.append(EVIDENCE_REQUESTS[wording % len(EVIDENCE_REQUESTS)])
    return "\n".join(lines)


def reply_text(example: Example, settings: TemplateSettings, wording: int = 0) -> str:
    """The reply that is trained for. Parts that were not annotated are left out, never invented."""
    masks = ", ".join([SEG] * len(example.targets))
    if example.task == "locate":
        return " ".join(f"[{region.label}] {SEG}" for region in example.regions)
    if example.task == "refer":
        answer = example.answer.strip()
        if example.form == "question":
            return f"{answer.removesuffix('.')} {masks}."
        reply = REFER_REPLIES[wording % len(REFER_REPLIES)].format(seg=masks)
        return f"{reply} {answer}" if example.form == "explanatory" else reply
    by_letter = example.options and settings.show_options and settings.answer_style != "text"
    answer = letter(example.options.index(example.answer)) if by_letter else example.answer
    in_lines = settings.answer_style == "rationale"
    parts = [two_lines(example.rationale, answer) if in_lines else f"Answer: {answer.strip().removesuffix('.')}."]
    if settings.prompt != "plain":  # which ask for words alone
        return parts[0]
    if example.segments is not None:
        parts.append(f"Temporal Evidence: {format_segments(example.segments)}.")
    if masks:
        parts.append(f"Spatial Evidence: {masks}.")
    return ("\n" if in_lines else " ").join(parts)


def turns_of(example: Example, sample: Sample, settings: TemplateSettings, wording: int = 0,
             frames: Sequence[int] | None = None) -> list[tuple[str, str]]:
    """[(role, text)] of one example. ``frames``: positions of those that the language model sees; all of them when not given."""
    medium = sample.medium
    if example.task == "chat":
        turns = [(turn.role, turn.text) for turn in example.turns]
        pool = REGION_REQUESTS.get(example.question_type)
        if pool:
            turns = [(role, pool[wording % len(pool)].format(region=text, medium="image" if medium.kind == "image" else "video")
                      if text in {f"[{region.label}]" for region in example.regions} else text) for role, text in turns]
    else:
        turns = [("user", question_text(example, medium.kind, medium.subtitles, settings, wording)),
                 ("assistant", reply_text(example, settings, wording))]
    if in_pictures(medium, settings):
        frames = film_context.pooled_frames(medium) if frames is None else frames
        return [("user", film_context.user_text(example, medium, frames, settings, PICTURE)), *turns[1:]]
    if not example.regions:
        return turns
    return show_regions(turns, example, medium, range(len(medium.frame_times)) if frames is None else frames)


def render_turns(turns: Sequence[tuple[str, str]], *, has_video: bool, form: ChatForm = ChatForm()) -> Rendered:
    """ChatML as Qwen has it. The visual placeholder stands at the start of the first user turn, once per visual block; the collator repeats it.

    Supervised: each assistant text and the ``<|im_end|>`` that closes it. A dialogue that ends with the user's turn gets the
    generation prompt and supervises nothing after it.
    """
    spans: list[tuple[str, bool]] = [(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", False)] if form.system else []
    visual = form.visual if has_video else ""
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
           wordings: Sequence[int] = (0,), frames: Sequence[int] | None = None, form: ChatForm = ChatForm()) -> Rendered:
    """The training dialogue of some examples of a sample, one after the other as its turns. ``frames``: see :func:`turns_of`."""
    turns = [turn for i, wording in zip(examples, wordings, strict=True)
             for turn in turns_of(sample.examples[i], sample, settings, wording, frames)]
    return render_turns(turns, has_video=sample.medium.kind != "none", form=form)


def render_prompt(sample: Sample, settings: TemplateSettings, example: int = 0, frames: Sequence[int] | None = None,
                  form: ChatForm = ChatForm()) -> Rendered:
    """The evaluation prompt: everything up to the assistant's first word. ``frames``: see :func:`turns_of`."""
    first = turns_of(sample.examples[example], sample, settings, 0, frames)[:1]
    return render_turns(first, has_video=sample.medium.kind != "none", form=form)
