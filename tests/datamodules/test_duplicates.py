import json
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.datamodules import InstructionTuning, TextClassification
from lightning_qsgd.datamodules.duplicates import look_alikes, set_aside


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 20), st.integers(0, 20), st.integers(0, 9))
def test_parts_hold_whole_groups_and_are_about_as_large_as_asked(lengths, first, second, seed):
    groups = [[(g, i) for i in range(n)] for g, n in enumerate(lengths)]
    parts = set_aside(groups, [first, second], np.random.default_rng(seed))
    assert sorted(member for part in parts for member in part) == [member for group in groups for member in group]
    owners = [{g for g, _ in part} for part in parts]
    assert sum(map(len, owners)) == len(groups)
    for size, part in zip((first, second), parts, strict=False):
        assert len(part) <= size + max(lengths) / 2
    if max(lengths) == 1:
        order = np.random.default_rng(seed).permutation(len(groups))
        assert [g for g, _ in parts[0]] == order[:first].tolist()


@pytest.fixture
def copies(tmp_path):
    """60 texts six times each, spelt differently, with one label each."""
    path = tmp_path / "copies.csv"
    texts = [f"{'the' if i % 2 else 'The'}  film number{n}" for i in range(6) for n in range(60)]
    path.write_text("text,label\n" + "".join(f"{text},{'ab'[len(text) % 2]}\n" for text in texts))
    return path


def warned(data):
    """All warnings of a fit's setup."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    return [str(one.message) for one in caught]


def test_equal_texts_in_several_splits_are_counted_and_can_be_kept_together(copies):
    (line,) = warned(TextClassification(str(copies)))
    counts = "36 of 36 validation texts (100.0%) and 36 of 36 test"
    assert f"are also in an earlier split (of training, validation, test): {counts}" in line
    assert "--data.group_equal_texts true keeps them together" in line
    data = TextClassification(str(copies), group_equal_texts=True)
    assert warned(data) == []
    splits = [{e.text.lower() for e in data.examples(split)} for split in ("train", "val", "test")]
    assert list(map(len, splits)) == [48, 6, 6]
    assert len(set.union(*splits)) == 60
    for split in ("val", "test"):
        assert set(Counter(e.label for e in data.examples(split)).values()) <= {6, 12, 24, 30}


def test_equal_texts_of_other_files_and_with_other_labels(copies, tmp_path):
    (tmp_path / "val.csv").write_text("text,label\nTHE FILM number1,a\nthe film number1,b\nsomething new,a\n")
    data = TextClassification(str(copies), str(tmp_path / "val.csv"), group_equal_texts=True)
    (line,) = warned(data)
    assert "2 of 3 validation texts (66.7%). Scores on them say little about new texts. Remove them from one" in line
    assert "1 of 61 different texts occur with different labels." in line


def test_equal_prompts(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"prompt": f"Say {i % 20}", "answer": f"{i % 20} {i % 7 == 0}"} for i in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = warned(InstructionTuning(str(path), test_file=str(path), val_share=0.1))
    assert "8 of 8 validation texts (100.0%) and 80 of 80 test texts" in line
    assert "--data.group_equal_texts" in line
    assert "different texts occur with different answers." in line
    data = InstructionTuning(str(path), val_share=0.1, group_equal_texts=True)
    assert "an earlier split" not in warned(data)[0]
    train, val = ({e.prompt for e in data.examples(split)} for split in ("train", "val"))
    assert (len(train), len(val), train & val) == (18, 2, set())


def test_labels_that_look_alike(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "good one,pos\nbad one,neg\n" * 10 + "fine,pos \nbest,Pos\n")
    (line,) = [line for line in warned(TextClassification(str(path))) if "alike" in line]
    wanted = "'pos' (10, lines 2, 4, 6 and 7 more) and 'pos ' (1, line 22) and 'Pos' (1, line 23)"
    assert line == f"{path}: labels that look alike are different classes: {wanted}"
    assert look_alikes({"1": [2], "01": [3], "1.0": [4], "2": [5]}).startswith(
        "'1' (1, line 2) and '01' (1, line 3) and"
    )
    assert (
        look_alikes({"caf\u00e9": [2], "cafe\u0301": [3], "a\u00a0b": [4], "a b": [5], "x\u200b": [6], "x": [7]}).count(
            "and"
        )
        == 3
    )
    assert look_alikes({"-0.0": [1], "0.0": [2]}).count("and") == 1
    assert look_alikes({"pos": [2], "neg": [3], "1": [4], "11": [5], str(10**30): [6], str(10**30 + 1): [7]}) == ""
