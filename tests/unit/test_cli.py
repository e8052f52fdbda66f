"""The ``unipixel`` command: finding commands, exit codes, and that every entry of the table exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from launch import __version__, cli
from unipixel.errors import EXIT_USER_ERROR, ConfigError, DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def echo(monkeypatch):
    """A command ``echo`` that keeps its arguments and does what ``outcome`` says."""
    class Echo:
        argv = None
        outcome = 0

        def main(self, argv):
            self.argv = argv
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

    module = Echo()
    monkeypatch.setitem(sys.modules, "echo_module", module)
    monkeypatch.setitem(cli.COMMANDS, "echo loud", cli.Command("echo_module:main", "for this test"))
    return module


def test_arguments_pass_untouched_and_the_exit_code_returns(echo):
    echo.outcome = 85
    assert cli.main(["echo", "loud", "--help", "--version", "-x", "--", "echo"]) == 85
    assert echo.argv == ["--help", "--version", "-x", "--", "echo"]


@pytest.mark.parametrize(("outcome", "code", "text"), [
    (ConfigError("depth=3 must be even"), EXIT_USER_ERROR, "unipixel: depth=3 must be even\n"),
    (DataError("no shards"), EXIT_USER_ERROR, "unipixel: no shards\n"),
    (KeyboardInterrupt(), 130, "unipixel: interrupted\n"),
])
def test_errors_become_one_line_and_an_exit_code(echo, capsys, outcome, code, text):
    echo.outcome = outcome
    assert cli.main(["echo", "loud"]) == code
    assert capsys.readouterr().err == text


def test_a_programming_error_keeps_its_traceback(echo):
    echo.outcome = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["echo", "loud"])


@pytest.mark.parametrize(("words", "unknown", "near"), [(["trian", "sft"], "trian", "'train sft'"), (["scroe"], "scroe", "'score'"),
                                                        (["film", "prepar", "--out", "x"], "film prepar", "'film prepare'")])
def test_an_unknown_command_names_the_nearest(capsys, words, unknown, near):
    assert cli.main(words) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert f"unknown command '{unknown}'" in error and near in error and error.count("\n") == 1


def test_half_a_command_names_all_that_begin_so(capsys):
    for words in (["film"], ["film", "--help"]):
        assert cli.main(words) == EXIT_USER_ERROR
        error = capsys.readouterr().err
        assert "'film prepare'" in error and "'film player'" in error and "'pack'" not in error


def test_without_a_command_the_list_is_shown(capsys):
    assert cli.main([]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert all(name in error for name in cli.COMMANDS)


def test_help_and_version(capsys):
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit) as stop:
            cli.main([flag])
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.endswith(f"unipixel-train {__version__}\n")
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in out and command.summary in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_entry_point_exists_and_takes_arguments(name):
    module, function = cli.COMMANDS[name].target.split(":")
    source = ROOT / Path(*module.split(".")).with_suffix(".py")
    found = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert found, f"{source} has no function {function}"
    assert [a.arg for a in found[0].args.args] == ["argv"]


def test_listing_imports_nothing_heavy():
    heavy = "import sys; from launch import cli; cli.listing(); print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
