"""Boards as Markdown, CSV, LaTeX and HTML. Best value bold, second underlined; a missing value is an em dash.

LaTeX needs no package: the file is a fragment for ``\\input``. CSV has one line per value with everything that is known of it. Every text
from a file is escaped for the format it goes into.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from tabulate import tabulate

from benchmarks.leaderboard.board import DASH, Board, Cell, Row, Style
from benchmarks.leaderboard.published import Published

TEMPLATE = Path(__file__).parents[1] / "templates" / "leaderboard.html.j2"
NOT_MIXED = "Published elsewhere, for reference: other prompts, frames or hardware; not measured here and not ranked with the rows above."
CSV_FIELDS = ("benchmark", "split", "protocol", "truth", "kind", "system", "metric", "unit", "value", "ci95_low", "ci95_high", "n", "source", "note")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "|": r"\textbar{}", "—": "---", "–": "--", "→": r"$\rightarrow$", "Δ": r"$\Delta$", "†": r"\textdagger{}",
          **{char: "\\" + char for char in "&%$#_{}"}}
_MARKDOWN = {"<": "&lt;", **{char: "\\" + char for char in "\\`*_[]|#~"}}


def latex_escape(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))


def markdown_escape(text: str) -> str:
    return "".join(_MARKDOWN.get(char, char) for char in " ".join(text.split()))


def percent_note(style: Style) -> str:
    return "Shares in percent" if style.percent else "Shares in 0-1"


def p_text(p: float | None) -> str:
    return DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference_rows(board: Board, style: Style) -> list[list[str]]:
    """System, metric, difference, interval, p, corrected p, and on how many examples it is better and worse."""
    return [[name, d.metric, style.number(d.difference, d.unit, sign=True), style.interval(d.ci95, d.unit) or DASH, p_text(d.p), p_text(d.p_holm),
             f"{d.better} / {d.worse}"] for name, found in board.differences.items() for d in found]


DIFFERENCE_HEADS = ("system", "metric", "difference", "95 % interval", "p", "p (Holm)", "better / worse")


def card_rows(board: Board) -> list[list[str]]:
    """System, file, examples, statuses, predictions, checkpoint and code of every measured row."""
    rows = []
    for entry in board.entries:
        card, status = entry.result["card"], entry.result["status"]
        rows.append([entry.name, entry.path, str(entry.result["n"]), ", ".join(f"{name} {n}" for name, n in status.items()),
                     str(card["predictions"].get("sha256"))[:12], str((card.get("run") or {}).get("checkpoint", DASH)), str(card.get("code", DASH))])
    return rows


CARD_HEADS = ("system", "file", "examples", "status", "predictions sha256", "checkpoint", "code")


# --- Markdown and LaTeX ----------------------------------------------------------------------------------------------------------

def _table(rows: Sequence[Row], columns: Sequence[str], first: str, style: str, escape: Callable[[str], str], cell: Callable[[Cell], str]) -> str:
    body = [[escape(row.name) + (f" ({escape(row.note)})" if row.note else ""), *(cell(row.cells[name]) for name in columns)] for row in rows]
    return tabulate(body, [first, *map(escape, columns)], style, disable_numparse=True, colalign=("left", *["right"] * len(columns)))


def markdown_cell(value: Cell) -> str:
    text = {"best": f"**{value.text}**", "second": f"<u>{value.text}</u>"}.get(value.mark, value.text)
    return f"{text} ({value.interval})" if value.interval else text


def latex_cell(value: Cell) -> str:
    text = latex_escape(value.text)
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(value.mark, text)
    return text + (rf" {{\scriptsize({latex_escape(value.interval)})}}" if value.interval else "")


def markdown(boards: Sequence[Board], style: Style) -> str:
    def plain(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
        return tabulate([[markdown_escape(text) for text in row] for row in rows], heads, "github", disable_numparse=True)

    parts = ["# Leaderboard", f"{percent_note(style)}; in brackets the 95 % interval over examples. **Best**, <u>second</u>."]
    for board in boards:
        parts += [f"## {markdown_escape(board.title)}",
                  _table(board.rows + board.baselines, board.metrics, "system", "github", markdown_escape, markdown_cell)]
        if board.differences:
            parts += [f"Paired differences to {markdown_escape(board.baseline)}:", plain(difference_rows(board, style), DIFFERENCE_HEADS)]
        if board.published:
            parts.append(NOT_MIXED)
        for source, rows in board.published:
            parts += [markdown_escape(_source(source)), _table(rows, board.metrics, "published", "github", markdown_escape, markdown_cell)]
        parts += [f"Truth `{board.truth_id}`; protocol: {markdown_escape(_protocol(board))}", plain(card_rows(board), CARD_HEADS)]
    return "\n\n".join(parts) + "\n"


def latex(boards: Sequence[Board], style: Style) -> str:
    parts = [f"% {percent_note(style)}; best bold, second underlined, 95 % intervals in brackets."]
    for board in boards:
        tables = [_table(board.rows + board.baselines, board.metrics, "system", "latex_raw", latex_escape, latex_cell)]
        tables += [_table(rows, board.metrics, f"published: {latex_escape(source.source)}", "latex_raw", latex_escape, latex_cell)
                   for source, rows in board.published]
        for number, table in enumerate(tables):
            caption = latex_escape(board.title) if not number else f"{latex_escape(board.title)}: {latex_escape(NOT_MIXED)}"
            parts.append("\n".join([r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", table, r"\end{table}"]))
        if board.differences:
            rows = [[latex_escape(text) for text in row] for row in difference_rows(board, style)]
            body = tabulate(rows, [latex_escape(head) for head in DIFFERENCE_HEADS], "latex_raw", disable_numparse=True)
            caption = f"{latex_escape(board.title)}: paired differences to {latex_escape(board.baseline)}"
            parts.append("\n".join([r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", body, r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _source(source: Published) -> str:
    parts = [f"{source.source} ({source.read})", "quoted, not read in the original" if source.secondary else "", source.comment]
    return "; ".join(part for part in parts if part)


def _protocol(board: Board) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in board.protocol.items())


# --- CSV and HTML ----------------------------------------------------------------------------------------------------------------

def _csv_rows(boards: Sequence[Board]) -> Iterator[tuple[Any, ...]]:
    for board in boards:
        where = (board.benchmark, board.split, board.entries[0].key[-1], board.truth_id)
        lines = [("measured", row, entry.path) for row, entry in zip(board.rows, board.entries)] + [("baseline", row, "") for row in board.baselines]
        lines += [("published, secondary" if source.secondary else "published", row, _source(source))
                  for source, rows in board.published for row in rows]
        for kind, row, source in lines:
            for name in board.metrics:
                cell = row.cells[name]
                low, high = cell.bounds or (None, None)
                yield (*where, kind, row.name, name, board.units[name], cell.value, low, high, cell.n or None, source, row.note)


def csv_safe(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets a leading apostrophe; everything else stays."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def csv_text(boards: Sequence[Board]) -> str:
    """One line per system and metric; values unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in _csv_rows(boards):
        writer.writerow(map(csv_safe, row))
    return out.getvalue()


def html_page(boards: Sequence[Board], style: Style) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    views = [{"board": board, "protocol": _protocol(board), "differences": difference_rows(board, style), "cards": card_rows(board),
              "published": [(_source(source), rows) for source, rows in board.published]} for board in boards]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        views=views, unit=percent_note(style), not_mixed=NOT_MIXED, difference_heads=DIFFERENCE_HEADS, card_heads=CARD_HEADS)
