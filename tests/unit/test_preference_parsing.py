"""Recorded replies of judges and writers: what is read from them, and under which reason they are refused."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import pytest

from data_tools.preference.parsing import parse_dialogues, parse_queries, parse_score, parse_verdict
from data_tools.preference.prompts import FOLDER, prompt
from unipixel.errors import SampleError

RECORDED = Path(__file__).parents[1] / "preference_fixtures"
PARSERS = {"scores": parse_score, "verdicts": lambda text: list(astuple(parse_verdict(text)))[:3],
           "dialogues": lambda text: [list(pair) for pair in parse_dialogues(text, 3)], "queries": lambda text: parse_queries(text, 2)}
CASES = [(name, number, row) for name in PARSERS for number, row in
         enumerate(map(json.loads, (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()))]


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, _, row in CASES], ids=[f"{name}-{n}" for name, n, _ in CASES])
def test_recorded_replies(name, row):
    if isinstance(row["expect"], str):
        with pytest.raises(SampleError) as error:
            PARSERS[name](row["text"])
        assert error.value.reason == row["expect"]
    else:
        got = PARSERS[name](row["text"])
        assert got == row["expect"] and type(got) is type(row["expect"])


def test_only_a_verdict_of_three_yes_is_kept():
    rows = [json.loads(line) for line in (RECORDED / "verdicts.jsonl").read_text().splitlines()]
    verdicts = [(parse_verdict(row["text"]), row["expect"]) for row in rows if not isinstance(row["expect"], str)]
    assert [v.keep for v, _ in verdicts] == [all(flags) for _, flags in verdicts] == [True, True, False, False, False]
    assert verdicts[0][0].why == "B puts the cup left of the ball."


def test_prompts_render_and_their_hash_follows_their_text():
    values = {"frames": "F", "question": "Q?", "caption": "C", "reference": "R", "reply": "P", "count": 3, "mode": "temporal", "candidate": 4,
              "preferred": "good", "adversarial": "bad", "paused": 3, "options": [("A", "one")], "answer": "one"}
    names = sorted(path.stem for path in FOLDER.glob("*.j2"))
    assert len({prompt(name).provenance["sha256"] for name in names}) == len(names) == 10
    for name in names:
        text = prompt(name).render(**values)
        assert text and "{" not in text.replace('{"why"', "").replace('{"claims"', "").replace("{%", "!")
    assert prompt("hound_questions").render(**values).endswith("Q3: …\nA3: …")
    assert "another order" in prompt("pasta_mislead").render(**values) and "same time" not in prompt("pasta_mislead").render(**values)


def test_a_prompt_without_a_value_is_an_error():
    with pytest.raises(Exception, match="caption"):
        prompt("hound_score").render(question="Q")
