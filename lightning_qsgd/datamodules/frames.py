"""Read tables of columns from CSV, JSON, Parquet and .npz files and from scikit-learn, and convert them to numbers.

A value is missing if it is an empty cell, null or NaN. Nothing else is: texts such as "N/A" are refused in columns of
numbers.
"""

import importlib
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_qsgd.datamodules.rows import check_is_file, check_surrogates, first_three, in_lines, is_blank, read_rows

#: Name of each class column and target columns of scikit-learn's sets that need no download.
SETS: dict[str, list[str] | str] = {
    "breast_cancer": "class",
    "wine": "class",
    "iris": "class",
    "digits": "class",
    "diabetes": ["progression"],
    "linnerud": ["weight", "waist", "pulse"],
}
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_DECORATION = re.compile(r"[\s,'_%$€£¥]")
_DATE = re.compile(r"\d{4}[-/]\d\d?[-/]\d\d?(?:[T ].*)?|\d\d?[-/.]\d\d?[-/.]\d{2,4}(?: .*)?")
_EXACT = 2**53


class Frame(NamedTuple):
    """Columns of one file.

    Attributes:
        name: the file, or scikit-learn's set, for errors.
        columns: a list or array with one value for each row, by column name. All have the same length.
        lines: the first line of each row, from 1; None if the file has no lines. Rows are then counted from 0.
    """

    name: str
    columns: dict[str, Sequence[Any] | np.ndarray]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def at(self, rows: Sequence[int]) -> str:
        """File and lines of rows, for an error: "a.csv, lines 3, 5, 9 and 2 more"."""
        if self.lines is None:
            return f"{self.name}, row{'s' * (len(rows) > 1)} {first_three(rows)} (from 0)"
        return f"{self.name}, {in_lines([self.lines[i] for i in rows])}"

    def check_columns(self, wanted: Iterable[str], what: str) -> None:
        """Check that columns exist.

        Raises:
            ValueError: otherwise, with the names that exist.
        """
        if missing := [name for name in wanted if name not in self.columns]:
            near = [name for name in self.columns if name.strip().casefold() == missing[0].strip().casefold()]
            there = ", ".join([*self.columns][:12]) + (" ..." if len(self.columns) > 12 else "")
            hint = f"; do you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{self.name}: column {missing[0]!r} ({what}) is missing; there are: {there}{hint}")


def read_frame(path: str) -> Frame:
    """Read all columns of a file.

    Args:
        path: a Parquet file (``.parquet``, ``.pq``), a NumPy archive (``.npz``), JSON (``.jsonl``, ``.ndjson``,
            ``.json``), or CSV (any other name).

    Raises:
        ValueError: if the file cannot be read as a table.
        ImportError: for Parquet without pyarrow.
        FileNotFoundError, IsADirectoryError: if there is no such file.
    """
    file = Path(path)
    check_is_file(file)
    read = {".parquet": _parquet, ".pq": _parquet, ".npz": _npz}.get(file.suffix.lower())
    if read is not None:
        frame = Frame(path, read(file))
        if not frame.columns or not len(frame):
            raise ValueError(f"{path} is empty: it needs at least one column and one row")
        return frame
    rows = read_rows(file, None)
    columns = list(rows[0].values)
    if not columns:
        raise ValueError(f"{path}: there are no columns with a name")
    for column in columns:
        check_surrogates(file, rows, column)
    return Frame(path, {name: [row.values[name] for row in rows] for name in columns}, [row.line for row in rows])


def read_set(name: str) -> Frame:
    """One of scikit-learn's sets that come with it (``SETS``), with class names as texts, in its own units.

    Raises:
        ValueError: for another name.
    """
    if name not in SETS:
        raise ValueError(f"Invalid dataset: {name!r}; use one of {', '.join(SETS)}, or a file (train_file)")
    load: Callable[..., Any] = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")
    data = load(scaled=False) if name == "diabetes" else load()  # its scaled form is scaled by all rows
    columns: dict[str, Any] = {str(feature): data.data[:, i] for i, feature in enumerate(data.feature_names)}
    targets = SETS[name]
    if isinstance(targets, str):
        columns[targets] = [str(data.target_names[i]) for i in data.target]
    else:
        columns |= dict(zip(targets, data.target.reshape(len(data.target), -1).T, strict=True))
    return Frame(f"scikit-learn's {name}", columns)


def _parquet(path: Path) -> dict[str, Any]:
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'lightning_qsgd[data]'") from error
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file that can be read: {error}") from error
    if repeated := {name for name in table.column_names if table.column_names.count(name) > 1}:
        raise ValueError(f"{path}: column {min(repeated)!r} is given twice; rename one of them")
    names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]  # pandas' index
    return {name: table.column(name).to_pylist() for name in names}


def open_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file, which may hold no Python objects.

    Raises:
        ValueError: otherwise, or if it is no ``.npz`` file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.lib.npyio.NpzFile):
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        way = "write texts as np.array(texts, dtype=str), numbers as floats" if "pickle" in str(error) else "np.savez"
        raise ValueError(f"{path} cannot be read as .npz: {error}; {way}") from error
    raise ValueError(f"{path} holds one array without a name; write it by np.savez(path, X=..., y=...)")


def _npz(path: Path) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    arrays = open_npz(path)
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:  # X (N, D) holds columns x0, x1, ...; y (N, K) y0, y1, ...
            columns |= {f"{name.lower()}{i}": array[:, i] for i in range(array.shape[1])}
        else:
            raise ValueError(
                f"{path}: array {name!r} has shape {array.shape}; an array is one column (N,) or several (N, D)"
            )
    widths = sum(1 if array.ndim == 1 else array.shape[1] for array in arrays.values())
    if len(columns) < widths:
        raise ValueError(f"{path}: two arrays give columns of the same name; rename one of them")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: arrays have different numbers of rows: {lengths}")
    for name, values in columns.items():
        if values.dtype.kind not in "biufUS":
            raise ValueError(f"{path}: array {name!r} has type {values.dtype}; it must hold real numbers or texts")
        columns[name] = values.astype(str) if values.dtype.kind == "S" else values
    return columns


# ---- values


def is_missing(value: Any) -> bool:
    """Whether a value is an empty cell, null or NaN."""
    return is_blank(value) or (isinstance(value, (float, np.floating)) and math.isnan(value))


def missing_rows(frame: Frame, column: str) -> list[int]:
    """The rows without a value in a column."""
    return [i for i, value in enumerate(frame.columns[column]) if is_missing(value)]


def name_of(value: Any) -> str:
    """The name of a class or category: whole numbers have no point, so that 1 and 1.0 are the same."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value.item() if isinstance(value, np.generic) else value)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names in alphabetical order, or whole numbers by value."""
    names = set(names)
    return sorted(names, key=int) if all(re.fullmatch(r"-?\d{1,18}", name) for name in names) else sorted(names)


def number(value: Any) -> float | None:
    """A value as a number, or None if it is none. Texts must be plain: "1.5e3", but not "1,500", "12 %" or "007"."""
    if isinstance(value, (bool, np.bool_, int, float, np.integer, np.floating, Decimal)):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    return float(text) if _NUMBER.fullmatch(text) else None


def numbers(frame: Frame, column: str, what: str) -> np.ndarray:
    """A column as float64 (N,), with NaN for missing values.

    Args:
        frame: the table.
        column: name of the column.
        what: what to do about a column that holds no numbers, for errors.

    Raises:
        ValueError: for other values, infinite ones, and whole numbers that float64 would round, with their lines.
    """
    values = frame.columns[column]
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        found = values.astype(np.float64)
    else:
        read = [math.nan if is_missing(value) else number(value) for value in values]
        if other := [i for i, value in enumerate(read) if value is None]:
            shown = first_three(dict.fromkeys(repr(values[i]) for i in other))
            raise ValueError(f"{frame.at(other)}: column {column!r} holds no numbers there: {shown}; {what}")
        found = np.array(read, dtype=np.float64)
    if rows := np.flatnonzero(np.isinf(found)).tolist():
        raise ValueError(f"{frame.at(rows)}: column {column!r} is infinite; correct these values, or leave them empty")
    # float64 has no odd numbers above 2^53, so that 2^53 itself may be 2^53 + 1.
    if wide := [i for i in np.flatnonzero(np.abs(found) >= _EXACT).tolist() if _is_whole(values[i])]:
        raise ValueError(
            f"{frame.at(wide)}: column {column!r} holds whole numbers of 2^53 or more, such as {values[wide[0]]}, "
            "which would be rounded; if they are identifiers, leave the column out (columns) or list it in categories"
        )
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())


def check_labels(frame: Frame, column: str) -> None:
    """Check that labels are all texts, all whole numbers, or all true and false, and that none is missing.

    Raises:
        ValueError: otherwise, with the lines of the others.
    """
    values = frame.columns[column]
    if rows := missing_rows(frame, column):
        raise ValueError(f"{frame.at(rows)}: label {column!r} is missing; remove these rows, or fill it in")
    found: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        found.setdefault(_type(value), []).append(i)
    if "a number with a point" in found:
        rows = found["a number with a point"]
        raise ValueError(
            f"{frame.at(rows)}: {column!r} holds numbers with a point, such as {values[rows[0]]}; give numbers to "
            f"predict as target_columns: [{column}], and write classes as texts or whole numbers"
        )
    if wrong := [kind for kind in found if kind not in ("a text", "a whole number", "a truth value")]:
        raise ValueError(
            f"{frame.at(found[wrong[0]])}: label {column!r} is {wrong[0]}; write it as a text or a whole number"
        )
    if len(found) > 1:
        kinds = "; ".join(f"{name_of(values[rows[0]])!r} is {kind} ({frame.at(rows)})" for kind, rows in found.items())
        raise ValueError(f"{frame.name}: labels in {column!r} have several types: {kinds}; write all alike")


def _type(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "a truth value"
    if isinstance(value, (int, np.integer)):
        return "a whole number"
    if isinstance(value, (float, np.floating)):
        return "a whole number" if float(value).is_integer() else "a number with a point"
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    read = number(value)
    return "a text" if read is None or read.is_integer() else "a number with a point"


def holds_numbers(frame: Frame, column: str) -> bool:
    """Whether a column holds numbers (True) or categories (False).

    Raises:
        ValueError: if that is unclear: some values are numbers and others are not, texts look like numbers, such as
            "1,234" or "12 %", numbers are written as texts in JSON, Parquet or ``.npz``, texts are dates, or most are
            different.
    """
    values = frame.columns[column]
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return True
    there = [i for i, value in enumerate(values) if not is_missing(value)]
    plain = [i for i in there if number(values[i]) is not None]
    other = sorted(set(there) - set(plain))
    or_else = f"or list {column!r} in categories"
    if unclear := [i for i in other if not isinstance(values[i], str)]:
        raise ValueError(
            f"{frame.at(unclear)}: column {column!r} holds {type(values[unclear[0]]).__name__} values; leave it out "
            "(columns), or write it as numbers or texts"
        )
    if plain and other:
        odd = other if len(other) <= len(plain) else plain
        shown = first_three(dict.fromkeys(repr(values[i]) for i in odd))
        rest = "numbers" if odd is other else "texts"
        raise ValueError(
            f"{frame.at(odd)}: column {column!r} holds {rest} except for {shown}. Write numbers as 1234.5, and leave "
            f"cells without a value empty; {or_else}"
        )
    texts = [i for i in plain if isinstance(values[i], str)]
    if texts and (len(texts) < len(plain) or not _from_csv(frame)):
        raise ValueError(
            f"{frame.at(texts)}: column {column!r} holds numbers as texts, such as {values[texts[0]]!r}; write them as "
            f"numbers, {or_else}"
        )
    different = {values[i] for i in other}
    alike = [value for value in different if _NUMBER.fullmatch(_DECORATION.sub("", value).lstrip("0") or "0")]
    if different and 2 * len(alike) >= len(different):
        rows = [i for i in other if values[i] in alike]
        raise ValueError(
            f"{frame.at(rows)}: column {column!r} holds texts that look like numbers, such as {values[rows[0]]!r}; "
            f"write them as 1234.5, {or_else}"
        )
    dates = [value for value in different if _DATE.fullmatch(value.strip())]
    if different and 2 * len(dates) >= len(different):
        raise ValueError(
            f"{frame.at([i for i in other if values[i] in dates])}: column {column!r} holds dates, such as "
            f"{min(dates)!r}; write numbers, such as the month, leave it out (columns), {or_else}"
        )
    if len(different) > 20 and 2 * len(different) > len(there):
        raise ValueError(
            f"{frame.name}: column {column!r} holds {len(different)} different texts in {len(frame)} rows, too "
            f"many for categories; leave it out (columns), {or_else}"
        )
    return not other


def _from_csv(frame: Frame) -> bool:
    suffix = Path(frame.name).suffix.lower()
    return frame.lines is not None and suffix not in (".jsonl", ".ndjson", ".json")
