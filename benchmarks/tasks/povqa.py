"""ReasonVQA and TVQA, as POVQA evaluates them: a rationale and a final answer in two labelled lines.

Labels may be in any case, bold, in either order, and the rationale may run over several lines; a label at the start of a line goes before
one inside of it. Without a ``Final Answer`` label the answer is what any reply of ours would be read as, and ``no_final_answer`` is counted.
Compat ``seed`` cuts answers to their first six words, as the published script does: the average true answer has fifteen, so that even a
perfect model cannot reach 1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.protocol import Protocol
from benchmarks.result import Metric
from benchmarks.task import Task
from benchmarks.tasks.choice import Choice
from benchmarks.truth import GroundTruth, truth_of
from unipixel.infer.predictions import Prediction
from unipixel.metrics import bleu1, bleu4, exact_match, rouge_l, token_f1
from unipixel.sample import Example, Sample

NO_FINAL_ANSWER, NO_REASONING = "no_final_answer", "no_reasoning"
PROMPT = ("{question}\n\nAnswer only from the video and its subtitles, and be concise. Reply in exactly two lines:\n"
          "Reasoning: <what you saw or heard, with its time>\nFinal Answer: <a short answer>")
CUT_WORDS = 6
_BOLD = r"(?:\*\*|__)?"
_LABELS = {name: rf"{_BOLD}{label}\s*{_BOLD}\s*[:：]\s*{_BOLD}" for name, label in (("reasoning", "reasoning"), ("answer", r"final[ _]answer"))}
_AT_START, _ANYWHERE = ({name: re.compile(start + label, re.IGNORECASE | re.MULTILINE) for name, label in _LABELS.items()}
                        for start in (r"^\s*", r"(?<!\w)"))


def parse_two_lines(text: str) -> tuple[str | None, str | None]:
    """(reasoning, final answer); ``None`` for a part without its label. An answer ends with its line."""
    found = {name: _AT_START[name].search(text) or _ANYWHERE[name].search(text) for name in _LABELS}
    parts: dict[str, str | None] = dict.fromkeys(_LABELS)
    for name, match in found.items():
        if match:
            ends = [other.start() for other in found.values() if other and other.start() > match.start()]
            parts[name] = text[match.end():min(ends, default=len(text))].strip().strip("*_").strip()
    answer = (parts["answer"] or "").splitlines()
    return parts["reasoning"] or None, answer[0].strip() if answer else None


@dataclass(frozen=True)
class TwoLines:
    """What a reply says: ``answer`` is compared with the truth, ``problems`` are labels that are missing."""

    reasoning: str | None
    answer: str
    problems: tuple[str, ...] = ()


def read_reply(prediction: Prediction, compat: str = "none") -> TwoLines:
    """The two lines of a prediction that was made."""
    reasoning, answer = parse_two_lines(prediction.reply or "")
    problems = (NO_FINAL_ANSWER,) * (answer is None) + (NO_REASONING,) * (reasoning is None)
    answer = (prediction.answer or prediction.reply or "") if answer is None else answer
    return TwoLines(reasoning, cut(answer) if compat == "seed" else answer, problems)


def cut(answer: str) -> str:
    """The first six words without punctuation, which is all that the published script compares."""
    return " ".join(re.sub(r"[^\w\s]", "", answer).split()[:CUT_WORDS])


def text_scores(said: str, true: str) -> dict[str, float]:
    """Agreement of an answer with the true one, by row field."""
    return {name: measure(said, true) for name, measure in (
        ("em", exact_match), ("f1", token_f1), ("bleu1", bleu1), ("bleu4", bleu4), ("rouge_l", rouge_l))}


def question_truths(sample: Sample) -> list[GroundTruth]:
    """Truths that keep the question and the true rationale."""
    return [truth_of(e, sample.medium, facts={"question": e.question, "rationale": e.rationale}) for e in sample.examples]


class ReasonVQA(Task):
    name, source, answers = "reasonvqa", "reasonvqa", "text"
    subtitles = True
    summary = "ReasonVQA (POVQA): open answers about film with a rationale, compared as text"
    metrics = (Metric("EM", lambda row: row["em"]), Metric("F1", lambda row: row["f1"]), Metric("BLEU-1", lambda row: row["bleu1"]),
               Metric("BLEU-4", lambda row: row["bleu4"]), Metric("ROUGE-L", lambda row: row["rouge_l"]),
               Metric("ROUGE-L reasoning", lambda row: row["rouge_l_reasoning"]))
    headline = ("F1", "BLEU-4", "ROUGE-L")
    expected = {"test": (41, 41), "train": (198, 198)}
    protocols = {compat: Protocol(compat, prompt=PROMPT, max_new_tokens=4096) for compat in ("none", "seed")}

    def examples(self, sample: Sample, protocol: Protocol) -> Sequence[Example]:
        return [example for example in sample.examples if example.task == "evidence" and not example.options]

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return question_truths(sample)

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        true = truth.facts["rationale"]
        if prediction is None:
            return dict.fromkeys(text_scores("", ""), 0.0) | {"rouge_l_reasoning": 0.0 if true else None, "problems": []}
        said = read_reply(prediction, protocol.compat)
        return text_scores(said.answer, truth.answer) | {"rouge_l_reasoning": rouge_l(said.reasoning or "", true) if true else None,
                                                         "problems": list(said.problems)}

    def trivial(self, truth: GroundTruth) -> Prediction:
        """The question, said back: its words occur in most true answers."""
        return Prediction(truth.example_id, truth.medium_id, reply=f"Final Answer: {truth.facts['question']}")


class TVQA(Choice):
    name, source, subtitles = "tvqa", "tvqa", True
    summary = "TVQA (POVQA): five options about a clip of a series, with a rationale before the answer"
    protocols = {"none": Protocol(prompt=PROMPT.replace("a short answer", "the letter of the right option"), max_new_tokens=512,
                                  averaging="mean over questions")}

    def truths(self, sample: Sample, protocol: Protocol) -> list[GroundTruth]:
        return question_truths(sample)

    def measure(self, truth: GroundTruth, prediction: Prediction | None, protocol: Protocol) -> dict[str, Any]:
        if prediction is None:
            return super().measure(truth, None, protocol)
        said = read_reply(prediction)
        row = super().measure(truth, dataclasses.replace(prediction, answer=said.answer), protocol)
        return row | {"problems": [*row.get("problems", ()), *said.problems]}
