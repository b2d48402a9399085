import json
from collections import Counter

import numpy as np
import pytest
import torch

from lightning_qsgd.datamodules import TextClassification
from lightning_qsgd.datamodules.text import words

ROWS = [(f"the {'red' if i % 2 else 'blue'} thing number{i}!", "warm" if i % 2 else "cold") for i in range(40)]


@pytest.fixture
def table(tmp_path):
    """Writes rows as CSV; returns the path."""

    def write(rows=ROWS, name="train.csv", header="text,label"):
        path = tmp_path / name
        path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
        return str(path)

    return write


def ready(path, **arguments):
    data = TextClassification(path, **arguments)
    data.setup("fit")
    return data


def test_words():
    assert words("Don't  play Río, ok?") == ["don", "'", "t", "play", "río", ",", "ok", "?"]


def test_split_is_stratified_disjoint_and_a_function_of_its_seed(table):
    def parts(**arguments):
        data = ready(table(), **arguments)
        return [[example.id for example in data.examples(split)] for split in ("train", "val", "test")]

    train, val, test = parts()
    assert sorted(train + val + test) == list(range(40))
    assert (len(train), len(val), len(test)) == (32, 4, 4)
    for part in (train, val, test):
        assert sum(i % 2 for i in part) == len(part) / 2
    assert parts() == [train, val, test]
    assert parts(split_seed=1) != [train, val, test]
    assert [len(part) for part in parts(val_file=table(ROWS[:6], "val.csv"))] == [36, 6, 4]


def test_vocabulary_comes_from_the_training_split_only_most_frequent_first(table):
    data = ready(table())
    assert set(data.vocabulary[:3]) == {"the", "thing", "!"}
    train = {example.id for example in data.examples("train")}
    assert {int(w.removeprefix("number")) for w in data.vocabulary if w.startswith("number")} == train
    assert data.labels == ["cold", "warm"]
    assert (data.num_classes, data.vocab_size, data.class_counts) == (2, len(data.vocabulary) + 2, [16, 16])
    assert ready(table(), min_count=2).vocabulary == [w for w in data.vocabulary if not w.startswith("number")]
    assert len(ready(table(), max_vocab=2).vocabulary) == 2


def test_batches_are_padded_to_their_longest_text_with_the_last_id(table):
    data = ready(table([("a b c d", "x"), ("a", "y")] * 10, "t.csv"), batch_size=16, max_words=3)
    batch = next(iter(data.train_dataloader()))
    assert batch["tokens"].shape[1] == 3
    assert torch.equal(batch["padding_mask"], batch["tokens"] == data.vocab_size - 1)
    assert batch["padding_mask"].sum(1).tolist() == [0 if label == 0 else 2 for label in batch["labels"]]
    assert batch["tokens"].dtype == torch.int64
    assert len(batch["text"]) == 16
    assert data.encode(["unheard of", ""])[1].tolist() == [data.vocab_size - 2]  # unknown
    assert (data.encode(["a"])[0] == 0).all()  # the most frequent word has id 0


def test_the_order_of_training_batches_follows_the_seed(table, monkeypatch):
    def first():
        return next(iter(ready(table()).train_dataloader()))["id"]

    one = first()
    assert first() == one
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert first() != one


def test_fit_says_how_many_texts_go_where_and_names_classes_that_are_not_tested(table, caplog, recwarn):
    caplog.set_level("INFO")
    ready(table(), min_count=2)
    assert "32 texts to train, 4 to validate, 4 to test; 2 classes, 5 words" in caplog.text
    assert not recwarn.list
    rare = [(f"star {i}", label) for label in ("p", "q", "r", "s") for i in range(3)]
    wanted = (
        r"test: p \(3 to train, 0 to validate, 0 to test\), q .*, r .* and 1 more; raise val_share and test_share, or"
    )
    with pytest.warns(UserWarning, match=wanted):
        ready(table([*ROWS, *rare]))


def test_json_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"utterance": text, "intent": label} for text, label in ROWS]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    data = ready(str(path), text_column="utterance", label_column="intent")
    assert Counter(e.label for e in data.examples("train")) == {"warm": 16, "cold": 16}


def test_all_empty_values_are_named_at_once(table):
    rows = [("a", "x"), ("", "y"), *[("b", "")] * 5]
    wanted = r"line 3: column 'text' is empty; lines 4, 5, 6 and 2 more: column 'label' is empty; remove them$"
    with pytest.raises(ValueError, match=wanted):
        ready(table(rows))


def test_state_brings_vocabulary_and_labels_to_a_new_process(table):
    fitted = ready(table())
    new = TextClassification(predict_file=table([("the new thing",)], "new.csv", "text"))
    new.load_state_dict(fitted.state_dict())
    (batch,) = new.predict_dataloader()
    assert batch["text"] == ["the new thing"]
    assert "labels" not in batch
    assert batch["tokens"][0].tolist() == [
        new.vocabulary.index("the"),
        new.vocab_size - 2,
        new.vocabulary.index("thing"),
    ]
    np.testing.assert_array_equal(new.labels, fitted.labels)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], "text,label", r"train.csv is empty"),
        (ROWS, "sentence,label", r"train.csv, line 1: column 'text' is missing; there are: sentence, label"),
        (ROWS, "text,class", r"column 'label' is missing; there are: text, class"),
        ([("a", "x"), ("b", "")], "text,label", r"line 3: column 'label' is empty; remove it$"),
        ([("a;x",)], "text;label", r"there are: text;label; separated by ';'\? It must be a comma"),
        ([("a", "x")] * 20, "text,label", r"has 1 label \(\['x'\]\)"),
        ([("a", "x"), ("b", "y")] * 2, "text,label", r"too small to set val aside; set val_file"),
        (
            [(f"a {i}", f"{i / 7}") for i in range(299)],
            "text,label",
            r"to set val aside: 299 texts have 299 different labels. Is 'label' the right column\? If so, set val_file",
        ),
    ],
)
def test_bad_files_name_line_and_column(table, rows, header, message):
    with pytest.raises(ValueError, match=message):
        ready(table(rows, header=header))


def test_missing_and_unknown(table):
    with pytest.raises(FileNotFoundError, match=r"File not found: nowhere.csv"):
        ready("nowhere.csv")
    with pytest.raises(
        ValueError, match=r"No file for train: set train_file, for example --data.train_file=data/train"
    ):
        TextClassification().setup("fit")
    data = ready(table(), val_file=table([("a b", "hot")], "val.csv"))
    with pytest.raises(ValueError, match=r"val.csv, line 2: label 'hot' is not a label of .*: cold, warm"):
        data.val_dataloader()
    with pytest.raises(ValueError, match="The vocabulary is unknown: run fit, or load a checkpoint"):
        TextClassification(predict_file=table()).predict_dataloader()


@pytest.mark.parametrize("arguments", [{"max_words": 0}, {"val_share": 1.0}, {"split_seed": -1}, {"min_count": 0}])
def test_invalid_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Invalid {name}: {value}"):
        TextClassification(**arguments)


def test_the_beginning_of_a_long_text_is_kept(table):
    data = ready(table([("a b c d", "x"), ("d c b a", "y")] * 10, "t.csv"), max_words=3)
    for text in ("a b c d", "d c b a"):
        assert (
            data.encode([text])[0].tolist()
            == data.encode([text[:5]])[0].tolist()
            != data.encode([text[2:]])[0].tolist()
        )
