"""Recipes and flags: what is set where wins, and what nothing knows is refused with the nearest name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from unipixel.config import parse, read_recipe, setting
from unipixel.errors import EXIT_USER_ERROR, ConfigError


@dataclass(kw_only=True)
class Cooking:
    heat: float = setting(1.0, "how hot")
    minutes: int = setting(10, "how long")
    lid: bool = setting(True, "with a lid")
    spices: list[str] = setting([], "what goes in")
    name: str = setting("soup", "what it is")

    def __post_init__(self):
        if self.heat < 0:
            raise ConfigError(f"heat={self.heat} must not be negative")


@dataclass(kw_only=True)
class Serving:
    plates: int = setting(2, "for how many")


def recipe(tmp_path: Path, text: str, name: str = "r.yaml") -> list[str]:
    (tmp_path / name).write_text(text)
    return ["--config", str(tmp_path / name)]


def test_defaults_recipe_and_flags_in_this_order(tmp_path):
    argv = recipe(tmp_path, "heat: 1e-3\nminutes: 20\nlid: false\nspices: [salt, bay]\nplates: 4\n")
    cooking, serving = parse([Cooking, Serving], [*argv, "--minutes", "30", "--lid", "true"])
    assert cooking == Cooking(heat=1e-3, minutes=30, lid=True, spices=["salt", "bay"]) and serving.plates == 4
    assert parse([Cooking, Serving], []) == (Cooking(), Serving())


def test_lists_have_no_common_default():
    first, second = Cooking(), Cooking()
    first.spices.append("salt")
    assert second.spices == []


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_both_spellings_of_config(tmp_path, form):
    _, file = recipe(tmp_path, "minutes: 20\n")
    (cooking,) = parse([Cooking], form.format(file).split())
    assert cooking.minutes == 20


def test_extends(tmp_path):
    recipe(tmp_path, "heat: 3\nminutes: 1\nname: base\n", "base.yaml")
    (tmp_path / "sub").mkdir()
    recipe(tmp_path / "sub", "extends: ../base.yaml\nminutes: 2\n", "middle.yaml")
    assert read_recipe(recipe(tmp_path, "extends: sub/middle.yaml\nname: top\n")[1]) == {"heat": 3, "minutes": 2, "name": "top"}


@pytest.mark.parametrize(("text", "argv", "words"), [
    ("minuts: 3\n", [], r"unknown setting 'minuts'; nearest: 'minutes'"),
    ("plate: 3\n", [], r"unknown setting 'plate'; nearest: 'plates'"),
    ("", ["--spises", "salt"], r"unknown flag '--spises'; nearest: '--spices'"),
    ("", ["--plats=3"], r"unknown flag '--plats=3'; nearest: '--plates'"),
    ("", ["--heat", "-1"], r"heat=-1.0 must not be negative"),
    ("heat: -2\n", [], r"heat=-2.0 must not be negative"),
    ("- a\n- b\n", [], r"a recipe is a mapping of settings, got list"),
    ("heat: [\n", [], r"r.yaml is not YAML"),
    ("spices: salt\n", [], r"spices is a list: write \[salt\]"),
    ("heat: [1, 2]\n", [], r"heat=\[1, 2\], but heat is a single value"),
    ("", ["--minut", "3"], r"unknown flag '--minut'; nearest: '--minutes'"),
])
def test_mistakes_are_named(tmp_path, text, argv, words):
    with pytest.raises(ConfigError, match=words):
        parse([Cooking, Serving], [*recipe(tmp_path, text), *argv])


def test_missing_recipe(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml' is not a file"):
        parse([Cooking], ["--config", str(tmp_path / "nowhere.yaml")])
    with pytest.raises(ConfigError, match="--config needs a file"):
        parse([Cooking], ["--config"])
    with pytest.raises(ConfigError, match="is not a file"):
        parse([Cooking], recipe(tmp_path, "extends: gone.yaml\n"))


@pytest.mark.parametrize(("argv", "words"), [(["--minutes", "soon"], "argument --minutes: invalid int value: 'soon'"),
                                             (["--lid", "perhaps"], "argument --lid: Truthy value expected")])
def test_values_of_another_type_end_the_command(argv, words, capsys):
    """With argparse's own message and exit code."""
    with pytest.raises(SystemExit) as caught:
        parse([Cooking], argv)
    assert caught.value.code == EXIT_USER_ERROR and words in capsys.readouterr().err
