import csv
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.datamodules.rows import check_filled, check_labels, check_texts, read_rows


@pytest.fixture
def file(tmp_path):
    """Writes a file, given text or bytes; returns its path."""

    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(path, columns=("text",)):
    """The first column of all rows, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [row.values[columns[0]] for row in read_rows(path, columns)]


# ---- CSV


def test_lines_are_those_of_an_editor(file):
    rows = read_rows(file('text,label\r\n"two\r\nlines",x\r\n\r\n  \nlast,y\rold,z'), ("text", "label"))
    assert rows == [
        (2, {"text": "two\r\nlines", "label": "x"}), (6, {"text": "last", "label": "y"}),
        (7, {"text": "old", "label": "z"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("\ufefftext,label\r\na,x\r\n", ["a"]),  # Excel's UTF-8
        ('text,label\n"a, b",x\n"say ""hi""",x\n', ["a, b", 'say "hi"']),
        ('text,label\n" ""hi"" she said",x\n', [' "hi" she said']),
        ('text,label\n5" pipe,x\nsize 5",x\n', ['5" pipe', 'size 5"']),  # quotes inside of a text are text
        ('text,label\n"",x\n', [""]),
        (",text,label,,\n0,a,x,,\n1,b,y,,\n", ["a", "b"]),  # pandas' index; Excel's empty columns
        ('text,label\n"Dear Sir,\nagain, I\n\nYours",x\n"a\nb, c",y\n', ["Dear Sir,\nagain, I\n\nYours", "a\nb, c"]),
        ("text\na\n\nb\n\n\n", ["a", "", "b"]),  # Excel writes an empty cell of a single column so
        ("text\na\n  \nb\n", ["a", "  ", "b"]),
        ("text,label\n" + "long " * 50_000 + ",x\n", ["long " * 50_000]),
    ],
)  # fmt: skip
def test_what_is_read(file, content, read):
    assert texts(file(content)) == read
    assert csv.field_size_limit() == 131072


CELL = st.text("a,\"'\n\r \u2028\u00e9", max_size=6)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_what_csv_writers_write_is_read_back_or_refused_as_joined(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", encoding="utf-8", newline="") as written:
        csv.writer(written).writerows([("id", "text", "label"), *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = read_rows(path, ("id", "text", "label"))
        except ValueError as error:
            assert "swallows lines that look like rows" in str(error)  # noqa: PT017
            return
    assert [tuple(row.values.values()) for row in read] == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nI liked it, really,pos\nb,x\nNot, at all, good,neg\n",
         r"t.csv, lines 3, 5: more cells than the header \(3 for 2\); put a field with commas in quotes"),
        ("text,label\na,x,\nb,y,\n", r"lines 2, 3: more cells .*they end with commas .*: remove them, or add as many"),
        ("text\na\nwas fine, but\n", r"line 3: more cells than the header \(2 for 1\)"),
        ("text,label\na,x\na broken\ntext,x\n", r"line 3: fewer cells than the header \(1 for 2\); write a comma"),
        ("text,label\na\nb,c,d\n", r"t.csv, line 3: more cells .*; line 2: fewer cells"),
        ('text,label\na,x\n"oh no,x\nb,y\nc,y\n', r"t.csv, line 3: a quote opens .*\('\"oh no,x.* is never closed"),
        ('text,label\na,x\nb,"x\n', r"line 3: a quote opens a field there .* never closed"),
        ('text,label\na,x\n"oh no,x\nb,y\n"c, d",y\n', r"line 3: a quote opens .* is closed in line 5 before 'c, d\""),
        ('text,label\n"two\nlines","and\nmore,x\n', r"line 3: a quote opens .*and\\nmore.* never closed"),
        ('text,label\n"He said "hi" twice",x\n', r"line 2: .* closed in the same line before 'hi\" twice.*and double"),
        ('text,label\n"a \\"b\\" c",x\n', r"line 2: .* is closed in the same line before 'b"),
        ('text,label\n"a" ,x\n', r"line 2: .* is closed in the same line before ' ,x"),
        ('text,label\na, "x"\n', "line 2: a space before a quote makes the quote part of the text"),
        ('text,label\na,x\n"b,x\nc,y\nd",y\ne,x\nf,y\n', r"lines 3 to 5: a quote opens in line 3 and swallows .*'c,y'"),
        ('text,label\na,x\n"b,x\nc, d,y\ne,y\nf",y\n', "lines 3 to 6: a quote opens in line 3 and swallows"),
        ('label,text\nx,a\nx,"b\ny,c"\ny,d\nx,e\n', "lines 3 to 4: a quote opens in line 3 and swallows .*'y,c'"),
        ("text,label,label\na,x,y\n", "t.csv, line 1: column 'label' is given twice; rename one of them"),
        ("a,x\nb,y\n", "line 1: column 'text' is missing; there are: a, x; the first line must name the columns"),
        ("Text,label\nb,y\n", "line 1: column 'text' is missing; there are: Text, label; rename 'Text'"),
        (" text,label\nb,y\n", "line 1: column 'text' is missing; .*; rename ' text'"),
        ("text;label\na, b;y\n", r"there are: text;label; separated by ';'\? It must be a comma"),
        ("text\tlabel\na, b\ty\n", r"; separated by '\\t'\? It must be a comma"),
        ("sep=,\ntext,label\na,x\n", "remove the line 'sep=...' that Excel wrote"),
        ('{"text": "a", "label": "b"}\n', "t.csv, line 1 looks like JSON: name the file .jsonl"),
        ("text,label\na,x\ntext,label\nb,y\n", "line 3: the header is repeated; remove it"),
        ("text,label\na,x\n\ufefftext,label\nb,y\n", "line 3: the header is repeated; remove it"),
        ("text,label\na,x\n\ufeffb,y\n", "line 3: a byte order mark within the file"),
        ("text,label\na,x\n# the end\n", "line 3: fewer cells"),
        ("text,label\na,x\ncaf\u00e9,x\n".encode("latin-1"), "t.csv, line 3: byte e9 is not valid UTF-8"),
        ("\ufefftext,label\na,x\n\n".encode() + b"\xff,x\n", "t.csv, line 4: byte ff is not valid UTF-8"),
        ("text,label\na,x\n".encode("utf-16"), "line 1: byte ff .*it looks like text in UTF-16. Save the file as CSV"),
        ("text,label\na,x\n".encode("utf-16-le"), "t.csv, line 1: byte 00 is not valid UTF-8"),
        (b"PK\3\4\xff", "it looks like an Excel or zip file"),
        ("", "t.csv is empty: it needs a header and at least one row"),
        ("text,label\n\n", "t.csv is empty"),
    ],
)  # fmt: skip
def test_csv_that_is_refused(file, content, message):
    with pytest.raises(ValueError, match=message):
        read_rows(file(content), ("text",))


@pytest.mark.parametrize(
    ("content", "warned"),
    [
        (
            'prompt,answer\na,1\nb,"2\nc,3\nd,4"\ne,5\n',
            "lines 3 to 5: quotes join lines .* affects 1 of 3 texts",
        ),
        ('text\na\n"b\nc"\nd\n', "t.csv, lines 3 to 4: quotes join lines that could be rows to one text"),
    ],
)
def test_lines_that_could_be_rows_are_warned_of(file, content, warned):
    path = file(content)
    column = content.split("\n")[0].split(",")[-1]
    with pytest.warns(UserWarning, match=warned):
        read_rows(path, (column,))


def test_prose_with_a_comma_in_each_line_is_no_suspect(file):
    rows = [("Hello, you\nall", "x"), ("Roses, red\nViolets, blue\nend", "y"), ("f(a,b)\nreturn", "x"), ("plain", "y")]
    path = file("")
    with path.open("w", newline="") as written:
        csv.writer(written).writerows([("text", "label"), *rows])
    assert texts(path) == [text for text, _ in rows]


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"File not found: .*none.csv"):
        read_rows(tmp_path / "none.csv", ())
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        read_rows(tmp_path, ())


# ---- JSON

ROWS = [{"text": "a", "n": 1}, {"text": None, "n": 2}]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.ndjson"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n", [2, 4]),
        ("\r\n".join(map(json.dumps, ROWS)), [1, 2]),
        (json.dumps(ROWS), [1, 1]),
        (json.dumps(ROWS, indent=1) + "\n", [2, 6]),
        (json.dumps(ROWS, indent=1).replace("\n", "\r\n"), [2, 6]),
        ("".join(json.dumps(row, indent=1) for row in ROWS), [1, 4]),  # objects after each other
    ],
)
def test_json_lines_and_arrays(file, name, content, lines):
    rows = read_rows(file(content, name), ("n", "text"))
    assert rows == [(line, row) for line, row in zip(lines, ROWS, strict=True)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('\n{"text": "a"}\n{"text"\n', "t.jsonl, line 3 is not valid JSON: "),
        ('{"text": "a"}\n{"text": "b', "t.jsonl, line 2 is not valid JSON: Unterminated string"),
        ('{"text": "a"},\n{"text": "b"},\n', "t.jsonl, line 1 is not valid JSON: "),
        ("text,label\na,b\n", "line 1 is not valid JSON: "),
        ('{"text": "a"}\n{"text"\n{"text": "b"}\n', r"line 2 is not valid JSON: .*line 3 column 1"),
        ('{"text": "a"}\n\nEOF', "line 3 is not valid JSON: "),
        ('[\n{"text": "a"},\n{"text": "b",\n"n": }]', "line 3 is not valid JSON: .*line 4 column 6"),
        ('"a"\n', 'line 1 is not a JSON object: "a"; a file holds one JSON object per line, or an array of objects'),
        ('[["a", "x"],\n["b", "y"]]', r'line 1 is not a JSON object: \["a", "x"\]'),  # pandas, orient="values"
        ('[\n{"text": "a"},\n{"text": "b"}\n', r"line \d is not valid JSON: the array .* was the file truncated\?"),
        ('[\n{"text": "a"}\n{"text": "b"}]\n', "line 2 is not valid JSON: the array has no comma or ] after an object"),
        ('[{"text": "a"}]\n[{"text": "b"}]\n', "line 1 is not valid JSON: the array is followed by other text"),
        ('{"text": "a"}\n{"text": "b", "text": "c"}\n', "t.jsonl, line 2: key 'text' is given twice; remove one"),
        ('\n{"text": "a"}\n{"test": "b"}\n', "t.jsonl, line 3: column 'text' is missing; there are: test$"),
        ('{"n": ' + "[" * 100_000, "line 1: "),
        ("[]", "t.jsonl is empty: a file holds one JSON object per line"),
        ('{"columns": ["text"], "index": [0], "data": [["a"]]}', "column 'text' is missing; .*orient='records'"),
        ('{"0": {"text": "a"}, "1": {"text": "b"}}', "column 'text' is missing; there are: 0, 1; .*orient='records'"),
        (b'{"text": "a"}\n{"text": "\xe9"}\n', "line 2: byte e9 is not valid UTF-8. Save the file as JSON lines"),
    ],
)
def test_json_that_is_refused(file, content, message):
    with pytest.raises(ValueError, match=message):
        read_rows(file(content, "t.jsonl"), ("text",))


# ---- values


def checked(file, check, values):
    path = file("\n".join(json.dumps({"v": value}) for value in values), "t.jsonl")
    check(path, read_rows(path, ("v",)), "v")


@pytest.mark.parametrize("labels", [["a", "b"], [0, 1, 2], [0.0, 1.5], [True, False], ["1", "01", "true"]])
def test_labels_of_one_type(file, labels):
    checked(file, check_labels, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, float("nan"), 1, float("inf")], r"t.jsonl, lines 2, 4: 'v' is not a label: NaN; .* is a text, a number"),
        ([[0], [1], [0], [1]], r"lines 1, 2, 3 and 1 more: 'v' is not a label: \[0\]"),
        ([{"a": 1}], r"line 1: 'v' is not a label: \{\"a\": 1\}"),
        ([1, 1.0, "1", True, 1], r"the labels in 'v' have several types: 1 is a whole number \(lines 1, 5\); 1.0 is a "
         r"number with a point \(line 2\); \"1\" is a text \(line 3\); true is a truth value \(line 4\); write all"),
        (["\ud83d", "b"], "line 1: 'v' holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_labels_that_are_refused(file, labels, message):
    with pytest.raises(ValueError, match=message):
        checked(file, check_labels, labels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 3, None, 4.5], "t.jsonl, lines 2, 4: 'v' is not a text: 3; write it in quotes"),
        ([{"0": "a", "1": "b"}], "line 1: 'v' is not a text: .*orient='records', lines=True"),  # pandas' default
        ([["a", "b"], "c"], r"line 1: 'v' is not a text: .*; make it one text$"),
        (["\ud83d"], "line 1: 'v' holds half of a surrogate pair"),
    ],
)
def test_texts_that_are_refused(file, values, message):
    with pytest.raises(ValueError, match=message):
        checked(file, check_texts, values)


def test_all_blank_values_are_named(file):
    path = file("a,b\nx,\n ,y\nz,\t\n")
    with pytest.raises(
        ValueError, match=r"t.csv, line 3: column 'a' is empty; lines 2, 4: column 'b' is empty; remove them$"
    ):
        check_filled(path, read_rows(path, ("a", "b")), ("a", "b"))
