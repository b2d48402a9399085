"""Rows of CSV and JSON lines, with the lines of the file that they stand in."""

import csv
import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row: the line of the file that it begins in (from 1), and its values by column or key."""

    line: int
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of a file, without blank ones: JSON lines (``.jsonl``, ``.json``), or CSV with a header.

    Raises:
        ValueError: for a line that is no JSON object, with its number.
    """
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        if not is_json_lines(path):
            reader = csv.reader(file)
            header = next(reader, [])
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    rows.append(Row(line, dict(zip_longest(header, cells))))
                line = reader.line_num + 1  # a quoted field may have line breaks
            return rows
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    values = json.loads(text)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {line} is no JSON: {error}") from error
                if not isinstance(values, dict):
                    raise ValueError(f"{path}, line {line} is no JSON object: {text.strip()[:60]}")
                rows.append(Row(line, values))
    return rows


def is_json_lines(path: Path) -> bool:
    """Whether a file of this name is read as JSON lines, not as CSV."""
    return path.suffix.lower() in (".jsonl", ".json")


def check_columns(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """See that each row has a value in each column.

    Raises:
        ValueError: if a column is missing, with those there are; or if values are empty, with the lines of all such.
    """
    empty: dict[str, list[int]] = {}
    for line, values in rows:
        for column in columns:
            if column not in values:
                there = [str(name) for name in values if name is not None]
                place = line if is_json_lines(path) else 1  # the header
                raise ValueError(
                    f"{path}, line {place}: column {column!r} is missing; there are: {', '.join(there)}{_hint(there)}"
                )
            if values[column] in (None, ""):
                empty.setdefault(column, []).append(line)
    if empty:
        found = "; ".join(f"{in_lines(lines)}: column {name!r} is empty" for name, lines in empty.items())
        raise ValueError(f"{path}, {found}; remove {'it' if sum(map(len, empty.values())) == 1 else 'them'}")


def in_lines(lines: Sequence[int]) -> str:
    """As "line 3", or "lines 3, 5, 9 and 2 more"."""
    return f"line{'s' * (len(lines) > 1)} {first_three(lines)}"


def first_three(values: Iterable[Any]) -> str:
    """As "a, b, c and 2 more"."""
    values = list(values)
    return ", ".join(map(str, values[:3])) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _hint(header: Sequence[str]) -> str:
    """Why a header might be one column."""
    other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
    return f"; separated by {other!r}? It must be a comma" if other else ""
