"""Read the rows of CSV and JSON files, with their line numbers. A file is read completely or refused.

CSV files are in UTF-8, separated by commas, and have a header. A field with commas, line breaks or an opening quote is
in quotes, and quotes inside it are doubled, as pandas, Excel and ``csv.writer`` write it. JSON files hold one object
per line, or an array of objects.
"""

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_utilities.core.rank_zero import rank_zero_warn

_LINE_END = re.compile(r"\r\n|\r|\n")
_SPACE = re.compile(r"\s*")
_UNQUOTED = re.compile(r"[^,\r\n]*")
_QUOTED = re.compile(r'"[^"]*(?:""[^"]*)*')
_SPACED = re.compile(r'[^\S\r\n]+"')
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_FORM = "a file holds one JSON object per line, or an array of objects"
_PANDAS = "pandas: df.to_json(path, orient='records', lines=True)"


class Row(NamedTuple):
    """A row: the number of its first line in the file, from 1, and its values by column or key."""

    line: int
    values: dict[str, Any]


def check_is_file(path: str | Path, where_to_get: str = "") -> None:
    """Check that a path names a file.

    Raises:
        FileNotFoundError: if it does not exist; the message ends with ``where_to_get``.
        IsADirectoryError: for a folder.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not Path(path).exists():
        raise FileNotFoundError(f"File not found: {path}{where_to_get}")


def read_rows(path: Path, columns: Sequence[str] | None) -> list[Row]:
    """Read the rows of a file, without blank lines.

    In a CSV file with one column, a blank line is a row with an empty value, as Excel writes it, unless only blank
    lines follow. The function warns about quotes that may have joined several rows.

    Args:
        path: a JSON file (``.jsonl``, ``.ndjson``, ``.json``) or a CSV file (any other name).
        columns: names of the columns or keys to read. None reads all that have a name, and warns about columns of a CSV
            file without name that hold values; JSON objects must then have the same keys.

    Returns:
        At least one row. Values from CSV are strings. Values from JSON have their types there; null is None.

    Raises:
        ValueError: for a file without rows, not in UTF-8, or ambiguous: a missing or repeated column, rows with more or
            fewer cells than the header, quotes that are never closed or that join rows, invalid JSON. The message names
            the lines and a way out.
        FileNotFoundError: for a missing file.
        IsADirectoryError: for a folder.
    """
    check_is_file(path)
    text = _decoded(path)
    rows = _json_rows(path, text, columns) if _is_json(path) else _csv_rows(path, text, columns)
    if not rows:
        form = _JSON_FORM if _is_json(path) else "it needs a header and at least one row"
        raise ValueError(f"{path} is empty: {form}")
    return rows


def check_filled(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Check that no value is missing, empty or blank.

    Raises:
        ValueError: otherwise, with the lines of these values.
    """
    empty = {name: [line for line, values in rows if is_blank(values[name])] for name in columns}
    found = [f"{in_lines(lines)}: column {name!r} is empty" for name, lines in empty.items() if lines]
    if found:
        one = sum(map(len, empty.values())) == 1
        raise ValueError(f"{path}, {'; '.join(found)}; remove {'it' if one else 'them'}")


def warn_of_empty(path: Path, rows: Sequence[Row], column: str) -> None:
    """Warn about rows without text, which get no prediction."""
    if empty := [line for line, values in rows if is_blank(values[column])]:
        rank_zero_warn(
            f"{path}, {in_lines(empty)}: column {column!r} is empty; these {len(empty)} of {len(rows)} rows get no "
            "prediction"
        )


def empty_rows(texts: Sequence[str]) -> dict[str, list[bool]]:
    """The entry ``empty`` of a batch to predict: True for rows whose text is blank. No entry if there are none."""
    empty = [is_blank(text) for text in texts]
    return {"empty": empty} if any(empty) else {}


def check_texts(path: Path, rows: Sequence[Row], column: str) -> None:
    """Check that all values are strings or None.

    Raises:
        ValueError: otherwise, with the lines of the other values.
    """
    wrong = [(line, values[column]) for line, values in rows if not isinstance(values[column], (str, type(None)))]
    if wrong:
        way = "make it one text" if isinstance(wrong[0][1], (list, dict)) else "write it in quotes"
        raise ValueError(
            f"{path}, {in_lines([line for line, _ in wrong])}: {column!r} is not a text: {_shown(wrong[0][1])}; {way}"
            f"{_orient(rows)}"
        )
    check_surrogates(path, rows, column)


def check_labels(path: Path, rows: Sequence[Row], column: str) -> None:
    """Check that labels are all strings, all integers, all finite floats, or all booleans.

    Raises:
        ValueError: for other values or mixed types, with their lines.
    """
    found: dict[str, list[tuple[int, Any]]] = {}
    for line, values in rows:
        found.setdefault(_type(values[column]), []).append((line, values[column]))
    for kind in ("array", "object", "not a finite number"):
        if kind in found:
            raise ValueError(
                f"{path}, {in_lines([line for line, _ in found[kind]])}: {column!r} is not a label: "
                f"{_shown(found[kind][0][1])}; a label is a text, a number, true or false{_orient(rows)}"
            )
    if len(found) > 1:
        kinds = "; ".join(
            f"{_shown(there[0][1])} is {kind} ({in_lines([line for line, _ in there])})"
            for kind, there in found.items()
        )
        raise ValueError(f"{path}: the labels in {column!r} have several types: {kinds}; write all labels alike")
    check_surrogates(path, rows, column)


def check_surrogates(path: Path, rows: Sequence[Row], column: str) -> None:
    r"""Refuse half a surrogate pair, such as ``\ud83d`` alone, which cannot be written to a file."""
    wrong = [n for n, values in rows if _SURROGATE.search(str(values[column]))]
    if wrong:
        raise ValueError(f"{path}, {in_lines(wrong)}: {column!r} holds half of a surrogate pair (\\ud800 to \\udfff)")


def is_blank(value: Any) -> bool:
    """Whether a value is None, empty, or only whitespace."""
    return value is None or (isinstance(value, str) and not value.strip())


def in_lines(lines: Sequence[int]) -> str:
    """Line numbers as text: "line 3", or "lines 3, 5, 9 and 2 more"."""
    return f"line{'s' * (len(lines) > 1)} {first_three(lines)}"


def first_three(values: Iterable[Any]) -> str:
    """The first three values as text: "a, b, c and 2 more"."""
    values = list(values)
    return ", ".join(map(str, values[:3])) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".ndjson", ".json")


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
        place = data.find(b"\0")
    except UnicodeDecodeError as error:
        # The decoder counts after the byte order mark, if there is one.
        text, place = "", error.start + 3 * data.startswith(b"\xef\xbb\xbf")
    if place < 0:
        return text
    known = {b"PK\3\4": "an Excel or zip file", b"\x1f\x8b": "a gzip file", b"PAR1": "a Parquet file"}
    known |= {b"\xff\xfe": "text in UTF-16", b"\xfe\xff": "text in UTF-16"}
    kind = next((f"; it looks like {name}" for start, name in known.items() if data.startswith(start)), "")
    line = 1 + len(_LINE_END.findall(data[:place].decode("latin-1")))
    raise ValueError(
        f"{path}, line {line}: byte {data[place : place + 1].hex()} is not valid UTF-8{kind}. Save the file as "
        f"{'JSON lines' if _is_json(path) else 'CSV'} in UTF-8 (Excel: 'CSV UTF-8'; pandas: encoding='utf-8')"
    )


def _missing(path: Path, line: int, there: Sequence[str], column: str, hint: str) -> ValueError:
    near = [name for name in there if name.strip().casefold() == column.strip().casefold()]
    names = ", ".join(name[:60] for name in there[:12]) + (" ..." if len(there) > 12 else "")
    hint = f"; rename {near[0]!r}" if near else hint
    return ValueError(f"{path}, line {line}: column {column!r} is missing; there are: {names}{hint}")


# ---- CSV


def _csv_rows(path: Path, text: str, columns: Sequence[str] | None) -> list[Row]:
    if text.lstrip().startswith(('{"', "[{")):
        raise ValueError(f"{path}, line 1 looks like JSON: name the file .jsonl")
    records = _records(path, text)
    start, header = next(((line, cells) for line, cells in records if cells), (1, []))
    if not header:
        return []
    if missing := [column for column in columns or () if column not in header]:
        raise _missing(path, start, header, missing[0], _header_hint(header))
    if repeated := [name for i, name in enumerate(header) if name and name in header[:i]]:
        raise ValueError(f"{path}, line {start}: column {repeated[0]!r} is given twice; rename one of them")
    rows, blank = [], []
    for line, cells in records:
        if len(header) > 1 and (not cells or (len(cells) == 1 and not cells[0].strip())):
            continue
        if not cells:
            blank.append((line, [""]))
            continue
        rows += [*blank, (line, cells)]
        blank = []
    _check_cells(path, header, rows)
    _check_joined(path, header, rows)
    if columns is None:
        if re.search(r"^sep=|[;\t|]", header[0] * (len(header) == 1)):
            raise ValueError(f"{path}, line {start}: there is one column, {header[0]!r}{_header_hint(header)}")
        _warn_of_unnamed(path, header, rows)
    places = {column: header.index(column) for column in (filter(None, header) if columns is None else columns)}
    return [Row(line, {column: cells[i] for column, i in places.items()}) for line, cells in rows]


def _warn_of_unnamed(path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> None:
    unnamed = [i + 1 for i, name in enumerate(header) if not name and any(cells[i].strip() for _, cells in rows)]
    if unnamed:
        rank_zero_warn(
            f"{path}: columns without a name are not read: number {first_three(unnamed)}. Name them if they are data; "
            "pandas writes its index so (leave it out: df.to_csv(path, index=False))"
        )


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each record, including blank lines."""
    lines = list(io.StringIO(text, newline=""))
    reader, line = csv.reader(lines, strict=True), 1
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        for cells in reader:
            if any(cell[:1].isspace() and cell.lstrip()[:1] == '"' for cell in cells):
                record = "".join(lines[line - 1 : reader.line_num])
                if any(_SPACED.match(record, place) for place, _ in _fields(record)):
                    raise ValueError(
                        f"{path}, line {line}: a space before a quote makes the quote part of the text; remove the "
                        "space, or put the whole field in quotes"
                    )
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _quote_error(path, "".join(lines[line - 1 : reader.line_num]), line, error) from error
    finally:
        csv.field_size_limit(limit)


def _fields(record: str) -> Iterator[tuple[int, int | None]]:
    """Positions of each field's first character and, if it is quoted, of its closing quote or the end of the record."""
    place = 0
    while place < len(record):
        quoted = record[place] == '"'
        end = _end(_QUOTED if quoted else _UNQUOTED, record, place)
        yield place, end if quoted else None
        place = end + 1 + quoted


def _quote_error(path: Path, record: str, first: int, error: csv.Error) -> ValueError:
    """The error for a record, from its first line to the one where the reader stopped."""
    for place, end in _fields(record):
        if end is None or (end < len(record) and record[end + 1 : end + 2] in ("", ",", "\r", "\n")):
            continue
        line, last = (first + len(_LINE_END.findall(record[:n])) for n in (place, end))
        if end == len(record):
            what = "is never closed, so that it swallows all following lines"
        else:
            where = "the same line" if last == line else f"line {last}"
            what = f"is closed in {where} before {_shown_text(record[end + 1 :])}"
        return ValueError(
            f"{path}, line {line}: a quote opens a field there ({_shown_text(record[place:])}) and {what}. If it is "
            'stray, remove it; otherwise put the whole field in quotes, and double those inside: "a ""b"" c"'
        )
    return ValueError(f"{path}, line {first}: {error}")


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place


def _check_cells(path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> None:
    """Check that each row has as many cells as the header, and does not repeat it."""
    size, said = len(header), list[str]()
    more = [(line, cells) for line, cells in rows if len(cells) > size]
    if more:
        if all(not any(cells[size:]) for _, cells in more):
            way = "they end with commas that the header lacks: remove them, or add as many to the header"
        else:
            way = 'put a field with commas in quotes: "Red, or blue"'
        said.append(
            f"{in_lines([n for n, _ in more])}: more cells than the header ({len(more[0][1])} for {size}); {way}"
        )
    fewer = [(line, cells) for line, cells in rows if len(cells) < size]
    if fewer:
        said.append(
            f"{in_lines([n for n, _ in fewer])}: fewer cells than the header ({len(fewer[0][1])} for {size}); write a "
            "comma for each missing value, and put a field with line breaks in quotes"
        )
    if said:
        raise ValueError(f"{path}, {'; '.join(said)}")
    again = [line for line, cells in rows if size > 1 and [cells[0].lstrip("\ufeff"), *cells[1:]] == list(header)]
    if again:
        raise ValueError(f"{path}, {in_lines(again)}: the header is repeated; remove it")
    if marked := [line for line, cells in rows if cells[0].startswith("\ufeff")]:
        raise ValueError(
            f"{path}, {in_lines(marked)}: a byte order mark within the file, as in concatenated files; remove it"
        )


def _check_joined(path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> None:
    """Refuse quoted fields that are several rows, joined by two stray quotes, and warn about those that may be.

    The lines of such a field have as many cells as rows have. They are taken for rows if one of these cells is a value
    of other rows in that column, such as a label.
    """
    suspects = [
        (line, _LINE_END.split(cells[column]), *inner)
        for line, cells in rows
        for column in range(len(cells))
        if (inner := _inner_cells(cells, column)) is not None
    ]
    if not suspects:
        return
    known: list[set[str]] = [set() for _ in header]
    for _, cells in rows:
        for values, cell in zip(known, cells, strict=True):
            if not _LINE_END.search(cell):
                values.add(cell)
    unsure = []
    for line, lines, inner, like_rows in suspects:
        place = f"{path}, lines {line} to {line + len(lines) - 1}"
        if len(header) > 1 and any(cell in known[column] for column, cell in inner):
            raise ValueError(
                f"{place}: a quote opens in line {line} and swallows lines that look like rows ({_shown_text(lines[1])}"
                "). Remove the two stray quotes; if it is one text, write the file as JSON lines"
            )
        if like_rows and all(_may_be(cell, known[column], len(rows)) for column, cell in inner):
            unsure.append((line, place))
    if unsure:
        rank_zero_warn(
            f"{unsure[0][1]}: quotes join lines that could be rows to one text; this affects {len(unsure)} of "
            f"{len(rows)} texts ({in_lines([line for line, _ in unsure])}). If they are rows, remove the two quotes"
        )


def _may_be(cell: str, known: Collection[str], rows: int) -> bool:
    """Whether a new value fits a column. It does not if the column has few different values, such as labels, or if it
    begins with a space, as after a comma in prose, and no value of the column does."""
    spaced = cell[:1].isspace() and not any(value[:1].isspace() for value in known)
    return 2 * len(known) > rows and not spaced


def _inner_cells(cells: Sequence[str], column: int) -> tuple[list[tuple[int, str]], bool] | None:
    """Whole cells with their columns, from the lines of a field that have as many cells as rows, and whether all of its
    lines have. None if the field is one line, or no line has."""
    if "\n" not in cells[column] and "\r" not in cells[column]:
        return None
    parts = [line.split(",") for line in _LINE_END.split(cells[column])]
    sizes = [len(cells) - column, *[len(cells)] * (len(parts) - 2), column + 1]
    fits = [len(part) == size and all(map(str.strip, part)) for part, size in zip(parts, sizes, strict=True)]
    if not any(fits):
        return None
    whole = [[*enumerate(part)] for part in parts]
    whole[0] = [*enumerate(parts[0][1:], column + 1)]  # the first and the last cell continue outside the field
    whole[-1].pop()
    return [pair for pairs, fit in zip(whole, fits, strict=True) if fit for pair in pairs], all(fits)


def _header_hint(header: Sequence[str]) -> str:
    """The likely reason why a header lacks a column, for an error."""
    if header[0].lower().startswith("sep="):
        return "; remove the line 'sep=...' that Excel wrote"
    other = next((sign for sign in ";\t|" if len(header) == 1 and sign in header[0]), None)
    return f"; separated by {other!r}? It must be a comma" if other else "; the first line must name the columns"


# ---- JSON


def _json_rows(path: Path, text: str, columns: Sequence[str] | None) -> list[Row]:
    rows, every = [], columns is None
    for line, values in _objects(path, _LINE_END.sub("\n", text)):
        columns = list(values) if columns is None else columns
        if every and (more := [key for key in values if key not in columns]):
            raise ValueError(f"{path}, line {line}: {more[0]!r} is not in the first row; give all rows the same keys")
        if missing := [column for column in columns if column not in values]:
            raise _missing(path, line, list(values), missing[0], _orient([Row(line, values)]))
        rows.append(Row(line, {column: values[column] for column in columns}))
    return rows


def _objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """First line and value of each object, in lines or in an array. An object may span lines."""
    decoder, line, counted = json.JSONDecoder(object_pairs_hook=_unrepeated), 1, 0

    def skip(place: int) -> int:
        return _end(_SPACE, text, place)

    place = end = skip(0)
    array = text[place : place + 1] == "["
    place = skip(place + 1) if array else place
    while place < len(text) and not (array and text[place] == "]"):
        line, counted = line + text.count("\n", counted, place), place
        try:
            values, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line} is not valid JSON: {error}; {_JSON_FORM}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}, line {line} is not a JSON object: {_shown(values)}; {_JSON_FORM} ({_PANDAS})")
        yield line, values
        place = skip(end)
        if array and text[place : place + 1] == ",":
            place = skip(place + 1)
        elif array and text[place : place + 1] != "]":
            break
    if array and (text[place : place + 1] != "]" or skip(place + 1) < len(text)):
        line += text.count("\n", counted, end)
        what = "is followed by other text" if text[place : place + 1] == "]" else "has no comma or ] after an object"
        raise ValueError(f"{path}, line {line} is not valid JSON: the array {what}; was the file truncated?")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice; remove one")
    return values


def _type(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    names = {str: "a text", bool: "a truth value", int: "a whole number", float: "a number with a point", list: "array"}
    return names.get(type(value), "object")


def _orient(rows: Collection[Row]) -> str:
    """How to write rows, for a table that seems to be written by columns, for an error."""
    tables = any(isinstance(value, (dict, list)) for _, values in rows for value in values.values())
    return f"; {_JSON_FORM} ({_PANDAS})" if tables and len(rows) == 1 else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _shown_text(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:30]} ...")
