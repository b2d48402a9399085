import json
import sys
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.datamodules import Table
from lightning_qsgd.datamodules.frames import SETS, number

#: 40 rows of two numbers and a category with a label, by column.
COLUMNS = {
    "size": [round(0.5 * i - 3, 2) for i in range(40)],
    "weight": [(7 * i) % 11 for i in range(40)],
    "colour": ["red" if i % 3 else "blue" for i in range(40)],
    "kind": ["big" if i % 2 else "small" for i in range(40)],
}
CSV = {**COLUMNS, "weight": [str(w) for w in COLUMNS["weight"]]}


@pytest.fixture
def csv(tmp_path):
    """Writes columns as CSV, with some cells replaced; returns the path."""

    def write(name="train.csv", columns=COLUMNS, **cells):
        columns = {column: [*map(str, values)] for column, values in columns.items()}
        for place, value in cells.items():
            column, row = place.rsplit("_", 1)
            columns[column][int(row)] = value
        lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values()))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write


def ready(*arguments, label_column="kind", **options):
    data = Table(*arguments, label_column=label_column, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup("fit")
    return data


def arrays(data, split="train"):
    return data.rows(split).columns


# ---- what a batch holds


@pytest.mark.parametrize("name", SETS)
def test_each_set_of_scikit_learn_has_its_own_classes_or_targets(name):
    data = Table(dataset=name)
    assert data.predicts == ("classes" if SETS[name] == "class" else "numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"].shape[1:] == data.input_shape
    assert batch["inputs"].dtype == torch.float32
    if data.predicts == "classes":
        assert batch["labels"].dtype == torch.int64
        assert (data.num_classes, sum(data.class_counts)) == (len(data.labels), len(data.rows("train")))
        assert data.num_targets is None
    else:
        assert batch["targets"].shape[1] == data.num_targets == len(SETS[name])
        assert batch["targets"].dtype == torch.float32
        assert data.num_classes is None
    ids = [arrays(data, split)["id"] for split in ("train", "val", "test")]
    assert sorted(torch.cat(ids).tolist()) == list(range(sum(map(len, ids))))
    assert "labels" not in arrays(data, "predict")
    assert "targets" not in arrays(data, "predict")


def test_split_is_stratified_and_a_function_of_its_seed(csv):
    def parts(**options):
        return [arrays(ready(csv(), **options), split)["id"].tolist() for split in ("train", "val", "test")]

    train, val, test = parts()
    assert sorted(train + val + test) == list(range(40))
    assert (len(train), len(val), len(test)) == (32, 4, 4)
    for part in (train, val, test):
        assert sum(i % 2 for i in part) == len(part) / 2
    assert parts() == [train, val, test]
    assert parts(split_seed=1) != [train, val, test]


def test_categories_are_inputs_of_0_and_1_that_are_not_scaled(csv):
    data = ready(csv())
    assert data.input_shape == (4,)
    batch = arrays(data)
    assert data.category_names == {"colour": ["blue", "red"]}
    for row, place in zip(batch["inputs"], batch["id"].tolist()):
        assert row[2:].tolist() == ([0, 1] if place % 3 else [1, 0])
    numbers = ready(csv(), categories=["weight"])
    assert numbers.category_names["weight"] == [str(i) for i in range(11)]  # by value, 10 last
    assert numbers.input_shape == (1 + 11 + 2,)


def test_all_formats_give_the_same_rows(csv, tmp_path):
    reference = arrays(ready(csv()))
    rows = [dict(zip(COLUMNS, row)) for row in zip(*COLUMNS.values())]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    np.savez(tmp_path / "t.npz", **{name: np.array(values) for name, values in COLUMNS.items()})
    for name in ("t.jsonl", "a.json", "t.npz"):
        found = arrays(ready(str(tmp_path / name)))
        assert all(torch.equal(found[key], reference[key]) for key in reference)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "t.parquet")
    found = arrays(ready(str(tmp_path / "t.parquet")))
    assert all(torch.equal(found[key], reference[key]) for key in reference)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"t.parquet: reading Parquet needs pyarrow: pip install .*\[data\]"):
        ready(str(tmp_path / "t.parquet"))


def test_x_and_y_of_an_archive(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 3))
    np.savez(tmp_path / "t.npz", X=x, y=x @ [1.0, 2.0, 3.0])
    data = ready(str(tmp_path / "t.npz"), label_column=None, target_columns=["y"])
    assert data.column_names == ["x0", "x1", "x2"]
    np.savez(tmp_path / "objects.npz", X=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"objects.npz cannot be read as .npz: Object arrays .*dtype=str"):
        ready(str(tmp_path / "objects.npz"))
    np.savez(tmp_path / "short.npz", X=x, y=x[1:, 0])
    with pytest.raises(ValueError, match=r"arrays have different numbers of rows: \{'X': 30, 'y': 29\}"):
        ready(str(tmp_path / "short.npz"), label_column="y")


# ---- checkpoints, loaders


class Linear(L.LightningModule):
    """Logistic regression with what a data module tells."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, 2)
        self.seen = []

    def training_step(self, batch):
        return torch.nn.functional.cross_entropy(self.layer(batch["inputs"]), batch["labels"])

    def test_step(self, batch):
        self.seen.append(batch)

    predict_step = test_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder):
    return L.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_a_checkpoint_brings_scaling_and_categories_to_other_files(csv, tmp_path):
    """Lightning saves and loads it; the test file has other means, and its columns in another order."""
    data = ready(csv(), test_file=csv("same.csv"), pca=2)
    trainer_ = trainer(tmp_path)
    trainer_.fit(Linear(2), data)
    trainer_.save_checkpoint(tmp_path / "a.ckpt")
    others = {name: [*reversed(values)] for name, values in reversed(COLUMNS.items())}
    others["size"] = [value + 100 for value in others["size"]]
    path = csv("new.csv", others | {"extra": ["?"] * 40})
    reference = ready(csv(), test_file=path, pca=2)
    del others["kind"]
    new = Table(test_file=path, predict_file=csv("p.csv", others), label_column="kind", batch_size=3, num_workers=1)
    model = Linear(2)
    trainer(tmp_path).test(model, new, ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False)
    trainer(tmp_path).predict(model, new, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert [len(batch["id"]) for batch in model.seen] == [12, 12, 12, 4] * 2
    assert torch.equal(torch.cat([batch["inputs"] for batch in model.seen[:4]]), arrays(reference, "test")["inputs"])
    assert torch.equal(torch.cat([batch["inputs"] for batch in model.seen[4:]]), arrays(reference, "test")["inputs"])
    assert new.labels == ["big", "small"]
    assert new.input_shape == (2,)
    assert "labels" not in model.seen[-1]


def test_a_share_that_is_not_that_of_the_checkpoint_is_a_warning(csv):
    state = ready(csv()).state_dict()

    def test_rows(path, **options):
        data = Table(path, label_column="kind", **options)
        data.load_state_dict(state)
        return data.test_dataloader()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test_rows(csv())
        test_rows(csv(), test_file=csv("other.csv", size_3="9"))
    for path, options in ((csv("changed.csv", size_3="9"), {}), (csv(), {"split_seed": 1})):
        with pytest.warns(UserWarning, match="the model may have been trained with some of these test rows"):
            test_rows(path, **options)


def test_arguments_that_a_checkpoint_overrides_are_told(csv):
    state = ready(csv(), pca=2).state_dict()
    assert all(isinstance(value, (str, list, dict)) for value in state.values())
    data = Table(predict_file=csv("new.csv"), label_column="kind", scale="none", pca=2)
    with pytest.warns(
        UserWarning, match="scale: none is not applied, because the model was trained with scale: standard"
    ):
        data.load_state_dict(state)
    assert data.state_dict() == state
    numbers = Table(label_column=None, target_columns=["size"])
    with pytest.raises(
        ValueError, match="The checkpoint predicts classes, and the arguments ask for numbers; give the"
    ):
        numbers.load_state_dict(state)


def test_a_run_that_is_resumed_with_other_rows_is_told(csv):
    files = {"val_file": csv("val.csv"), "test_file": csv("test.csv")}
    data = ready(csv(), **files)
    state = data.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load_state_dict(state)
        data.train_dataloader()
    changed = ready(csv("changed.csv", size_3="9"), **files)
    changed.load_state_dict(state)
    with pytest.warns(
        UserWarning, match="training rows of .*changed.csv are not those that the checkpoint was trained"
    ):
        changed.train_dataloader()


def test_targets_are_those_of_the_checkpoint(csv):
    data = Table(csv(), target_columns=["size", "weight"])
    data.setup("fit")
    other = Table(csv(), target_columns=["weight", "size"])
    with pytest.warns(
        UserWarning, match=r"target_columns: \['weight', 'size'\] is not applied, .*: \['size', 'weight'\]"
    ):
        other.load_state_dict(data.state_dict())
    assert torch.equal(arrays(other, "test")["targets"], arrays(data, "test")["targets"])


def test_a_row_is_that_of_a_batch_and_the_order_follows_the_seed(csv, monkeypatch):
    data = ready(csv(), batch_size=8)
    rows = data.rows("train")
    assert len(rows) == 32
    assert torch.equal(rows[5]["inputs"], rows.columns["inputs"][5])
    first = next(iter(data.train_dataloader()))
    place = rows.columns["id"].tolist().index(int(first["id"][0]))
    assert torch.equal(first["inputs"][0], rows[place]["inputs"])
    assert torch.equal(next(iter(data.train_dataloader()))["id"], first["id"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert not torch.equal(next(iter(data.train_dataloader()))["id"], first["id"])


# ---- missing values


@pytest.mark.parametrize(("missing", "size"), [("mean", np.mean), ("median", np.median)])
def test_missing_values_are_refused_or_filled_by_the_training_rows(csv, missing, size, caplog):
    path = csv(size_0="", size_7=" ", colour_1="")
    with pytest.raises(
        ValueError,
        match=r"values are missing in 'size' \(lines 2, 9\), 'colour' \(line 3\); fill them in, or set missing: mean",
    ):
        ready(path)
    caplog.set_level("INFO")
    data = ready(path, missing=missing, scale="none")
    assert "3 missing values are filled in, in size, colour" in caplog.text
    train = [i for i in arrays(data)["id"].tolist() if i not in (0, 7)]
    expected = size([COLUMNS["size"][i] for i in train])
    parts = [arrays(data, split) for split in ("train", "val", "test")]
    everything = {i: row for part in parts for i, row in zip(part["id"].tolist(), part["inputs"])}
    assert everything[0][0].item() == pytest.approx(expected)
    assert everything[7][0].item() == pytest.approx(expected)
    assert everything[1][2:].tolist() == [0, 1]  # red is the most frequent
    new = Table(predict_file=csv("new.csv", size_3=""), label_column="kind", missing=missing, scale="none")
    new.load_state_dict(data.state_dict())
    assert arrays(new, "predict")["inputs"][3, 0].item() == pytest.approx(expected)


def test_labels_and_targets_are_never_filled(csv):
    with pytest.raises(ValueError, match=r"line 5: label 'kind' is missing; remove these rows"):
        ready(csv(kind_3=""), missing="mean")
    with pytest.raises(ValueError, match=r"lines 5, 6: target 'size' is missing; remove these rows"):
        ready(csv(size_3="", size_4=""), missing="mean", label_column=None, target_columns=["size"])


# ---- what is refused


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**52), 2**52))
def test_numbers_that_python_writes_are_read(value):
    assert number(repr(value)) == value


@pytest.mark.parametrize(
    "text", ["1,234", "12 %", "N/A", "1_000", "nan", "inf", "007", "0x1", "1.2.3", "", "٣", "1 000"]
)
def test_numbers_are_plain(text):
    assert number(text) is None


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"size_0": "N/A"},
            r"train.csv, line 2: column 'size' holds numbers except for 'N/A'. .* list 'size' in categ",
        ),
        ({"weight_3": "3 kg"}, r"line 5: column 'weight' holds numbers except for '3 kg'"),
        ({"colour_1": "7"}, r"line 3: column 'colour' holds texts except for '7'"),
        ({"size_0": "inf"}, r"line 2: column 'size' holds numbers except for 'inf'"),
        ({"size_0": "1e999"}, r"line 2: column 'size' is infinite; correct"),
        ({"weight_0": "9007199254740993"}, r"line 2: .* whole numbers of 2\^53 or more, such as 9007199254740993"),
        (
            {f"size_{i}": f'"1,{i:03}"' for i in range(40)},
            r"'size' holds texts that look like numbers, such as '1,000'",
        ),
        ({f"size_{i}": f"{i} %" for i in range(40)}, r"'size' holds texts that look like numbers, such as '0 %'"),
        (
            {f"size_{i}": f"name {i}" for i in range(40)},
            r"'size' holds 40 different texts in 40 rows, too many for categ",
        ),
        ({f"size_{i}": "" for i in range(40)}, r"column 'size' has no values; leave it out"),
        (
            {"kind_2": "1.5"} | {f"kind_{i}": f"{i}.5" for i in range(40)},
            r"give numbers to predict as target_columns: \[ki",
        ),
        (
            {f"kind_{i}": f"k{i}" for i in range(40)},
            r"40 rows have 40 labels. Is 'kind' the right column\? If so, set val",
        ),
        ({f"kind_{i}": "big" for i in range(40)}, r"has 1 class \['big'\]; two are needed"),
    ],
)
def test_values_that_are_unclear_are_refused_with_their_lines(csv, cells, message):
    with pytest.raises(ValueError, match=message):
        ready(csv(**cells))


@pytest.mark.parametrize("days", [["2024-05-31", "2024-06-01T12:30"], ["5/31/2024", "31.5.24 10:00"]])
def test_dates_are_no_categories_unless_listed(csv, days):
    path = csv(columns=COLUMNS | {"day": days * 20})
    with pytest.raises(
        ValueError, match=r"lines 2, 3, 4 and 37 more: column 'day' holds dates, such as .* in categories"
    ):
        ready(path)
    assert ready(path, categories=["day"]).category_names["day"] == sorted(days)
    ranges = csv(columns=COLUMNS | {"day": ["20-29", "30-39"] * 20})  # of ages
    assert ready(ranges).category_names["day"] == ["20-29", "30-39"]


def test_unclear_columns_can_be_categories(csv):
    data = ready(csv(size_0="N/A"), categories=["size"])
    assert "N/A" in data.category_names["size"]


def test_numbers_in_quotes_in_json_are_texts(tmp_path):
    rows = [{"size": str(i), "kind": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "t.json").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ValueError,
        match=r"lines 1, 2, 3 and 37 more: column 'size' holds numbers as texts, such as '0'; write them as num",
    ):
        ready(str(tmp_path / "t.json"))


def test_other_files_must_have_the_same_columns_and_categories(csv):
    with pytest.raises(ValueError, match=r"new.csv: column 'size' \(an input of the model\) is missing; there are: we"):
        ready(csv(), val_file=csv("new.csv", {k: v for k, v in COLUMNS.items() if k != "size"}))
    with pytest.raises(
        ValueError, match=r"new.csv, line 4: 'green' is not a category of 'colour' in .*: blue, red; corr"
    ):
        ready(csv(), val_file=csv("new.csv", colour_2="green"))
    with pytest.raises(ValueError, match=r"new.csv, line 4: column 'size' holds no numbers there: 'big'"):
        ready(csv(), val_file=csv("new.csv", size_2="big"))
    with pytest.raises(
        ValueError, match=r"new.csv, line 4: label 'huge' is not a label of the training data: big, small"
    ):
        ready(csv(), val_file=csv("new.csv", kind_2="huge"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Invalid label_column: None; give label_column to predict classes, or target_columns"),
        ({"label_column": "a", "target_columns": ["b"]}, "Invalid label_column: a; target_columns are"),
        ({"dataset": "moons"}, "Invalid dataset: moons; use one of breast_cancer, wine, iris"),
        ({"dataset": "wine", "train_file": "a.csv"}, "Invalid dataset: wine; train_file is a.csv: give one of the two"),
        ({"dataset": "wine", "scale": "robust"}, "Invalid scale: robust; use one of standard, minmax, none"),
        ({"dataset": "wine", "missing": "zero"}, "Invalid missing: zero; use one of refuse, mean"),
        ({"dataset": "wine", "pca": 0}, "Invalid pca: 0; it must be at least 1"),
        ({"dataset": "wine", "columns": ["class"]}, "Invalid columns: .*; give at least one column, and none of"),
        ({"dataset": "wine", "columns": ["a", "a"]}, "Invalid columns: .*; 'a' is given twice"),
        ({"dataset": "wine", "test_share": 0}, "Invalid test_share: 0; it must be in"),
        (
            {"dataset": "wine", "val_share": 0.6, "test_share": 0.4},
            "Invalid val_share: 0.6, with test_share 0.4, leaves",
        ),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Table(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pca": 14}, "Invalid pca: 14; 142 training rows of 13 inputs have at most 13 components"),
        ({"columns": ["alcohol", "Hue"]}, r"column 'Hue' \(columns\) is missing; .*; do you mean 'hue'\?"),
        ({"columns": ["alcohol"], "categories": ["hue"]}, r"Invalid categories: \['hue'\]; they are not among"),
        ({"target_columns": ["price"]}, r"scikit-learn's wine: column 'price' \(target_columns\) is missing"),
    ],
)
def test_arguments_that_do_not_fit_the_data(options, message):
    with pytest.raises(ValueError, match=message):
        Table(dataset="wine", **options).setup("fit")


def test_what_is_too_small_to_split_says_so(csv):
    with pytest.raises(ValueError, match="too small to leave rows to train; set val_file and test_file, or other sh"):
        ready(csv(columns={"size": range(6), "kind": [*"aabbcc"]}), val_share=0.4, test_share=0.4)


def test_without_data_or_checkpoint():
    with pytest.raises(
        ValueError, match=r"No data for train: set train_file, for example --data.train_file=data/train"
    ):
        Table(label_column="kind").setup("fit")
    with pytest.raises(ValueError, match="The scaling is unknown: run fit, or load a checkpoint"):
        Table(dataset="wine").test_dataloader()


# ---- what is said


def test_fit_says_what_goes_where(csv, caplog, recwarn):
    caplog.set_level("INFO")
    columns = COLUMNS | {"size": [(3 * i) % 17 / 4 for i in range(40)]}
    data = Table(csv(columns=columns), label_column="kind")
    data.setup("fit")
    assert "32 rows to train, 4 to validate, 4 to test; 2 classes, 3 columns, 4 inputs" in caplog.text
    assert not recwarn.list


def test_columns_that_tell_nothing_are_warned_of(csv):
    columns = COLUMNS | {"number": range(1, 41), "same": [2.5] * 40}
    data = Table(csv(columns=columns), label_column="kind", columns=["size", "number", "same"])
    with pytest.warns(UserWarning, match="numbers the rows") as caught:
        data.setup("fit")
    said = " ".join(str(warning.message) for warning in caught)
    assert "column 'number' numbers the rows; if it is no measurement, leave it out" in said
    assert "Columns with one value in all training rows: same; as inputs they are 0" in said
    assert (arrays(data)["inputs"][:, 2] == 0).all()


def test_equal_rows_in_two_splits_are_counted_and_can_be_kept_together(csv):
    columns = {name: [values[i // 2] for i in range(80)] for name, values in COLUMNS.items()}
    path = csv(columns=columns)
    wanted = r"Some rows are also in an earlier split \(of .*\): . of 8 val rows (.|\n)*--data.group_equal_rows true"
    with pytest.warns(UserWarning, match=wanted):
        Table(path, label_column="kind").setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Table(path, label_column="kind", group_equal_rows=True)
        data.setup("fit")
    train = set(arrays(data)["id"].tolist())
    assert all((2 * i in train) == (2 * i + 1 in train) for i in range(40))


def test_pandas_index_is_not_read(tmp_path):
    (tmp_path / "t.csv").write_text(",a,kind\n" + "".join(f"{i},{i % 7},{'xy'[i % 2]}\n" for i in range(40)))
    data = Table(str(tmp_path / "t.csv"), label_column="kind")
    with pytest.warns(UserWarning, match=r"columns without a name are not read: number 1. .*index=False"):
        data.setup("fit")
    assert data.column_names == ["a"]
