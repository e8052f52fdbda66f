"""Grids as Markdown, CSV, LaTeX and HTML, and where every value comes from.

LaTeX is a fragment for ``\\input`` that needs no package; with ``\\usepackage{colortbl}`` cells whose training and evaluation pooling are
the same are shaded. Long grids are divided between metrics so that each part fits a page.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tabulate import SEPARATING_LINE, tabulate

from benchmarks.film_report.files import templates
from benchmarks.film_report.grid import MIXED, Grid, Line, Value
from benchmarks.film_report.runs import RunCell, label, sha256, short
from benchmarks.leaderboard.render import csv_safe, latex_cell, latex_escape, markdown_cell, markdown_escape, p_text

LINES_PER_PAGE = 48
BREAK = r"\\"
SHADE = "\\ifdefined\\cellcolor\\def\\filmshade{\\cellcolor[gray]{0.86}}\\else\\def\\filmshade{}\\fi"
CSV_FIELDS = ("dataset", "stage", "kind", "metric", "evaluated_on", "column", "value", "ci95_low", "ci95_high", "n", "p", "p_holm", "test", "mark",
              "mixed", "source")
Show = Callable[[Line, str], str]


def p_value(value: Value) -> str:
    """``p = 0.031``, ``p < 0.001``, or nothing."""
    if value.test is None or value.test.p is None:
        return ""
    text = p_text(value.test.p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _markdown_value(line: Line, column: str) -> str:
    value = line.values[column]
    text = markdown_cell(value.cell) + (MIXED if value.mixed else "")
    text += f" {p_value(value).replace('<', '&lt;')}" if p_value(value) else ""
    return f"{text} ▪" if column in line.shaded and value.cell.value is not None else text


def _latex_value(line: Line, column: str) -> str:
    """Interval and p stand below their value, because beside it four columns are wider than a page."""
    value = line.values[column]
    first = latex_cell(replace(value.cell, interval="")) + (latex_escape(MIXED) if value.mixed else "")
    below = [rf"{{\tiny {text}}}" for text in (latex_escape(value.cell.interval), f"${p_value(value)}$" if p_value(value) else "") if text]
    text = rf"\shortstack[r]{{{BREAK.join([first, *below])}}}" if below else first
    return f"\\filmshade {text}" if column in line.shaded else text


def _table(blocks: Sequence[Sequence[Line]], grid: Grid, style: str, escape: Callable[[str], str], show: Show, between: bool) -> str:
    rows: list[Any] = []
    for block in blocks:
        rows += [SEPARATING_LINE] if rows and between else []
        rows += [[escape(label(line.metric)), escape(line.label), *(show(line, column) for column in grid.columns)] for line in block]
    heads = [*map(escape, grid.heads), *map(escape, grid.columns.values())]
    return tabulate(rows, heads, style, disable_numparse=True, colalign=("left", "left", *["right"] * len(grid.columns)))


def markdown(grids: Sequence[Grid], heading: str) -> str:
    parts = [f"# {heading}"]
    for grid in grids:
        shaded = " ▪ stands for shaded." if any(line.shaded for line in grid.lines) else ""
        parts += [f"## {markdown_escape(grid.title)}", markdown_escape(grid.caption) + shaded,
                  _table(grid.blocks, grid, "github", markdown_escape, _markdown_value, False)]
        parts += ["\n".join(f"- {markdown_escape(note)}" for note in grid.notes)] if grid.notes else []
    return "\n\n".join(parts) + "\n"


def latex(grids: Sequence[Grid]) -> str:
    parts = [r"% needs no package; \usepackage{colortbl} adds the shading", SHADE]
    for grid in grids:
        pages = _pages(grid.blocks)
        for number, blocks in enumerate(pages):
            part = f" (part {number + 1} of {len(pages)})" if len(pages) > 1 else ""
            notes = [rf"\par {latex_escape(note)}" for note in grid.notes] if number + 1 == len(pages) else []
            caption = latex_escape(f"{grid.title}{part}. {grid.caption}")
            parts.append("\n".join([r"\begin{table}", r"\centering\scriptsize\tabcolsep3pt", rf"\caption{{{caption}}}",
                                    _table(blocks, grid, "latex_raw", latex_escape, _latex_value, True), *notes, r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _pages(blocks: Sequence[list[Line]]) -> list[list[list[Line]]]:
    pages: list[list[list[Line]]] = []
    room = 0
    for block in blocks:
        height = sum(max(1 + bool(value.cell.interval) + bool(p_value(value)) for value in line.values.values()) for line in block)
        if height > room:
            pages.append([])
            room = LINES_PER_PAGE
        pages[-1].append(block)
        room -= height
    return pages


def csv_rows(grids: Sequence[Grid]) -> Iterator[tuple[Any, ...]]:
    for grid in grids:
        for line in grid.lines:
            for column, name in grid.columns.items():
                value, cell, test = line.values[column], line.values[column].cell, line.values[column].test
                yield (grid.dataset, grid.stage, line.label if line.reference else grid.kind, line.metric,
                       "" if line.reference else line.label, name, cell.value, *(cell.bounds or (None, None)), cell.n or None,
                       test.p if test else None, test.p_holm if test else None, test.test if test else "", cell.mark, value.mixed or None,
                       " ".join(str(source.path) for source in value.sources))


def csv_text(heads: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> str:
    """Values unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(map(csv_safe, row) for row in rows)
    return out.getvalue()


def html(grids: Sequence[Grid], heading: str) -> str:
    return templates().get_template("film_tables.html.j2").render(heading=heading, grids=grids, label=label, p_value=p_value, mixed=MIXED)


def sources(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """Every value with the files it was made from, their hashes, and the older summaries that were passed over."""
    known: dict[RunCell, dict[str, Any]] = {}

    def source(cell: RunCell) -> dict[str, Any]:
        if cell not in known:
            files = {"summary": cell.path, "predictions": cell.predictions}
            known[cell] = {name: {"path": str(path), "sha256": sha256(path) if path.is_file() else None} for name, path in files.items()}
            known[cell] |= {"run": cell.key, "variant": cell.variant, "passed_over": [str(path) for path in cell.older]}
        return known[cell]

    return [{"table": grid.title, "metric": line.metric, "row": line.label, "evaluated_on": short(line.evaluated) if line.evaluated else None,
             "column": name, "value": line.values[column].cell.value, "sources": [source(cell) for cell in line.values[column].sources]}
            for grid in grids for line in grid.lines for column, name in grid.columns.items() if line.values[column].sources]
