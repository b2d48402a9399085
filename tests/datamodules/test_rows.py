import pytest

from lightning_qsgd.datamodules.rows import check_columns, read_rows


def test_lines_are_those_of_an_editor(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'text,label\r\n"two\r\nlines",x\r\n\r\nlast,y,more\r\nshort\r\n')
    rows = read_rows(path)
    assert [row.line for row in rows] == [2, 5, 6]
    assert rows[0].values == {"text": "two\r\nlines", "label": "x"}
    assert rows[1].values == {"text": "last", "label": "y", None: "more"}
    assert rows[2].values == {"text": "short", "label": None}
    path.write_text("")
    assert read_rows(path) == []


def test_json_lines_count_blank_ones(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert read_rows(path) == [(2, {"a": 1}), (4, {"a": 2})]
    path.write_text('\n{"a": 1}\n{"a"\n')
    with pytest.raises(ValueError, match=r"t.jsonl, line 3 is no JSON: "):
        read_rows(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1 is no JSON object: \[1\]"):
        read_rows(path)


def test_a_missing_key_is_named_with_its_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('\n{"text": "a"}\n{"test": "b"}\n')
    with pytest.raises(ValueError, match=r"t.jsonl, line 3: column 'text' is missing; there are: test$"):
        check_columns(path, read_rows(path), ["text"])
