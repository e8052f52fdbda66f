"""Files of reports: written under a temporary name and renamed, and the pages' templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from unipixel.data.index import replace_file
from unipixel.errors import DataError

TEMPLATES = Path(__file__).parents[1] / "templates"
NAME_LENGTH = 80


def write_text(path: Path, text: str) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode("utf-8"))


def claim_folder(folder: Path, note: str, content: Mapping[str, Any]) -> None:
    """Make ``folder``, with a file ``note`` that says what it is made from; one that was begun from the same goes on.

    Raises:
        DataError: it holds something else.
    """
    path, content = folder / note, json.loads(json.dumps(content))
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if used and (not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != content):
        raise DataError(f"out={str(folder)!r} already holds something else, or was made from other data or settings: choose another folder, or "
                        "remove it")
    write_text(path, json.dumps(content, indent=1) + "\n")


def file_name(text: str) -> str:
    """A text from data as part of a file name: letters, digits, ``.``, ``_`` and ``-``; never empty, never hidden."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:NAME_LENGTH].lstrip(".") or "_"


def templates() -> jinja2.Environment:
    """All texts that templates show are escaped; a name that does not exist is an error."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)
