"""The shape of the code: what may import what, which libraries are declared, docstrings, file sizes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sam2_ext", "unipixel", "data_tools", "benchmarks", "launch", "deepspeed_configs")
ROWS = (
    ("sam2_ext",),
    ("unipixel.errors", "unipixel.config", "unipixel.sample", "unipixel.distributed", "unipixel.metrics"),
    ("unipixel.data",),
    ("unipixel.model",),
    ("unipixel.objectives",),
    ("unipixel.train",),
    ("unipixel.infer",),
    ("data_tools",),
    ("benchmarks",),
    ("launch",),
)
"""Bottom to top: a module imports only from its own row and from rows before it."""
NEVER = {
    "unipixel.errors": ("sam2_ext", "torch"),
    "unipixel.sample": ("sam2_ext", "torch"),
    "unipixel.metrics": ("sam2_ext", "torch"),
    "unipixel.data": ("sam2_ext",),
    "unipixel.infer": ("unipixel.train",),
    "data_tools": ("unipixel.train", *(f"unipixel.infer.{name}" for name in ("generate", "interactive", "predict", "prefer", "segment"))),
}
"""What the order of rows alone would allow."""
ANYWHERE = ("training",)
"""Top-level packages that nothing may import."""
MAX_LINES = 500
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str, module: str, *, package: bool = False) -> Iterator[str]:
    """Absolute names that a module imports, inside functions too; ``from a import b`` gives ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[:len(parents) - node.level + package]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def row_of(name: str) -> int | None:
    return next((i for i, row in enumerate(ROWS) if any(inside(name, package) for package in row)), None)


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    """Imports of a module that the table forbids."""
    mine = row_of(module)
    banned = [target for owner, targets in NEVER.items() if inside(module, owner) for target in targets]
    found = []
    for name in imports(source, module, package=package):
        theirs = row_of(name)
        if (theirs is not None and mine is not None and theirs > mine) or any(inside(name, target) for target in (*banned, *ANYWHERE)):
            found.append(f"{module} imports {name}")
    return found


@pytest.mark.parametrize(("source", "module", "wrong"), [
    ("import torch\nfrom unipixel.errors import DataError", "unipixel.data.shards", False),
    ("from sam2_ext import build_sam2", "unipixel.model.build", False),
    ("from unipixel.train import settings", "launch.start", False),
    ("import unipixel.model.build", "unipixel.data.shards", True),
    ("def f():\n    from unipixel import train", "unipixel.model.build", True),
    ("from unipixel.train.sft import main", "data_tools.pack", True),
    ("from launch import cli", "benchmarks.score", True),
    ("import unipixel", "sam2_ext.build", False),  # the bare package holds nothing
    ("from unipixel import errors", "sam2_ext.build", True),
    ("from ..train import sft", "unipixel.model.build", True),
    ("from .. import errors", "unipixel.model.build", False),
    ("import training", "launch.cli", True),
    ("import torch", "unipixel.metrics.masks", True),
])
def test_the_rule_itself(source, module, wrong):
    assert bool(violations(source, module)) == wrong


def test_imports_point_downwards():
    assert [line for path in FILES for line in violations(path.read_text(), module_name(path), package=path.name == "__init__.py")] == []


def test_every_module_belongs_to_a_row():
    outside = {"unipixel", "deepspeed_configs"}
    assert [name for name in map(module_name, FILES) if row_of(name) is None and name not in outside] == []


def test_every_library_is_declared():
    """Each third-party import belongs to a distribution that setup.py requires, or to an extra, which need not be installed here; tests and
    the measurements of throughput may use the ``dev`` extra too."""
    values = {target.id: node.value for node in ast.parse((ROOT / "setup.py").read_text()).body if isinstance(node, ast.Assign)
              for target in node.targets if target.id in ("REQUIRES", "EXTRAS")}
    required, extras = ast.literal_eval(values["REQUIRES"]), ast.literal_eval(values["EXTRAS"])
    providers = importlib.metadata.packages_distributions()
    own = {*PACKAGES, "tests", *sys.stdlib_module_names}
    undeclared = []
    for path in (*FILES, *TESTS):
        optional = {normal(r) for name, extra in extras.items() if name != "dev" for r in extra}
        developers = path in TESTS or path.is_relative_to(ROOT / "benchmarks" / "throughput")
        allowed = {normal(r) for r in (*required, *(extras["dev"] if developers else []))}
        for name in imports(path.read_text(), module_name(path), package=path.name == "__init__.py"):
            top = name.split(".")[0]
            if top not in own and normal(top) not in optional and not allowed & {normal(d) for d in providers.get(top, ())}:
                undeclared.append(f"{path.relative_to(ROOT)}: {top}")
    assert sorted(set(undeclared)) == []


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def test_constraints_cover_the_requirements():
    pinned = {normal(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")}
    values = next(node.value for node in ast.parse((ROOT / "setup.py").read_text()).body
                  if isinstance(node, ast.Assign) and node.targets[0].id == "REQUIRES")
    assert {normal(r) for r in ast.literal_eval(values)} - pinned == set()


def test_modules_say_what_they_are():
    silent = [module_name(p) for p in FILES if (tree := ast.parse(p.read_text())).body and not ast.get_docstring(tree)]
    assert silent == []


def test_files_stay_small():
    assert {str(p.relative_to(ROOT)): n for p in (*FILES, *TESTS) if (n := p.read_text().count("\n")) > MAX_LINES} == {}
