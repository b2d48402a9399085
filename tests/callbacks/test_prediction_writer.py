import csv
import json
import re
from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import PredictionWriter
from lightning_qsgd.datamodules import TextClassification
from lightning_qsgd.tasks import SequenceClassification


def predict(devices, folder, data, **options):
    folder.mkdir()
    torch.manual_seed(0)
    module = SequenceClassification(30, 2, embed_dim=8, num_heads=2, feedforward_dim=8, num_layers=1)
    writer = PredictionWriter(all_classes=True)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="auto" if devices == 1 else "ddp_fork", logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[writer], default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.predict(module, data, return_predictions=False)
    return (folder / "predictions.csv").read_text()


def texts(tmp_path, rows):
    path = tmp_path / "new.csv"
    path.write_text("text\n" + "".join(f"word{i} again word{i % 7}\n" for i in range(rows)))
    data = TextClassification(predict_file=str(path), batch_size=1)
    data.load_state_dict({"vocabulary": [f"word{i}" for i in range(20)], "labels": ["no", "yes"], "class_counts": [1]})
    return data


@pytest.mark.parametrize("rows", [2, 9, 17])
def test_two_ranks_write_the_file_of_one(tmp_path, rows):
    data = texts(tmp_path, rows)
    one, two = (predict(devices, tmp_path / str(devices), data) for devices in (1, 2))
    assert two == one
    assert [int(row["id"]) for row in csv.DictReader(two.splitlines())] == list(range(rows))
    assert [path.name for path in (tmp_path / "2").iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.csv", 'text\nword1\n""\n  \nword2\n'),
        ("new.jsonl", '{"text": "word1"}\n{"text": null}\n{"text": "  "}\n{"text": "word2"}\n'),
    ],
)
def test_empty_texts_get_empty_predictions(tmp_path, name, content):
    data = texts(tmp_path, 1)
    data.files["predict"] = str(tmp_path / name)
    (tmp_path / name).write_text(content)
    with pytest.warns(
        UserWarning, match=rf"{name}, lines \d, \d: column 'text' is empty; these 2 of 4 rows get no pred"
    ):
        rows = list(csv.reader(predict(1, tmp_path / "run", data).splitlines()))
    assert rows[0] == ["id", "text", "label", "probability", "p(no)", "p(yes)"]
    assert [row[:2] for row in rows[1:]] == [["0", "word1"], ["1", ""], ["2", "  "], ["3", "word2"]]
    assert [row[2:] == [""] * 4 for row in rows[1:]] == [False, True, True, False]
    assert all(len(row) == 6 and row[2] in ("no", "yes") for row in (rows[1], rows[4]))


class Plain(L.LightningDataModule):
    """A user's own loader without ids, which Lightning splits among the ranks: every second row each."""

    def predict_dataloader(self):
        return DataLoader([{"tokens": torch.arange(i, i + 4)} for i in range(9)], batch_size=2)


def test_rows_of_other_loaders_stand_in_the_order_of_the_data(tmp_path):
    one, two = (predict(devices, tmp_path / str(devices), Plain()) for devices in (1, 2))
    assert two == one
    assert [int(row["id"]) for row in csv.DictReader(two.splitlines())] == list(range(9))


NAMES = ["a", "b", "c"]
X = torch.arange(10.0)
P = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]).repeat(5, 1)


class Pair(NamedTuple):
    mean: torch.Tensor
    spread: torch.Tensor


@dataclass
class Answer:
    word: list[str]
    score: torch.Tensor
    loss: torch.Tensor | None = None


class Returns(L.LightningModule):
    """Returns, of a batch of numbers 0 to 9, what a function makes of them."""

    def __init__(self, answer, num_classes=None):
        super().__init__()
        self.answer, self.num_classes = answer, num_classes

    def predict_step(self, batch, _, dataloader_idx=0):
        rows = batch["x"] if isinstance(batch, dict) else batch[0]
        return self.answer(rows)


class Rows(L.LightningDataModule):
    def __init__(self, form=lambda x: (x,), batch_size=4, **attributes):
        super().__init__()
        self.form, self.batch_size = form, batch_size
        for name, value in attributes.items():
            setattr(self, name, value)

    def predict_dataloader(self):
        return DataLoader([self.form(x) for x in range(10)], batch_size=self.batch_size)


def written(tmp_path, answer, data=None, num_classes=None, **options):
    """Header and rows of the file."""
    writer = PredictionWriter(**options)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[writer],
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.predict(Returns(answer, num_classes), data or Rows(), return_predictions=False)
    if writer.path is None:
        return None
    with writer.path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


@pytest.mark.parametrize(
    ("answer", "header", "last"),
    [
        (lambda x: x / 4, ["prediction"], ["2.25"]),
        (lambda x: x.double() / 3, ["prediction"], ["3.0"]),
        (lambda x: x.bfloat16(), ["prediction"], ["9.0"]),
        (lambda x: x / 10, ["prediction"], ["0.9"]),  # the digits that 32 bits have
        (lambda x: x.long(), ["prediction"], ["9"]),
        (lambda x: x > 4, ["prediction"], ["True"]),
        (lambda x: x[:, None] / 4, ["prediction_0"], ["2.25"]),
        (lambda x: torch.stack([x, -x], 1), ["prediction_0", "prediction_1"], ["9", "-9"]),
        (lambda x: P[x], ["label", "probability", "p(0)", "p(1)", "p(2)"], ["0", "0.7", "0.7", "0.2", "0.1"]),
        (lambda x: P[x].bfloat16(), ["label", "probability"], None),
        (lambda x: P[x][..., None], ["prediction_0_0", "prediction_1_0", "prediction_2_0"], ["0.7", "0.2", "0.1"]),
        (lambda x: x[:, None, None].expand(-1, 1, 2), ["prediction_0_0", "prediction_0_1"], ["9", "9"]),
        (lambda x: x.numpy(), ["prediction"], ["9"]),
        (lambda x: [f"row {i}" for i in x.tolist()], ["generated"], ["row 9"]),
        (lambda x: x.tolist(), ["prediction"], ["9"]),
        (lambda x: list(x), ["prediction"], ["9"]),
        (lambda x: [None if i > 8 else i for i in x.tolist()], ["prediction"], [""]),
        (lambda x: {"y": x, "z": -x[:, None]}, ["y", "z_0"], ["9", "-9"]),
        (lambda x: {"out": {"p": P[x]}}, ["out_p_0", "out_p_1", "out_p_2"], ["0.7", "0.2", "0.1"]),
        (lambda x: (x, [str(i) for i in x.tolist()]), ["prediction_0", "prediction_1"], ["9", "9"]),
        (lambda x: Pair(x, 2 * x), ["mean", "spread"], ["9", "18"]),
        (lambda x: Answer([str(i) for i in x.tolist()], x), ["word", "score"], ["9", "9"]),
        (lambda x: torch.full_like(x / 1, float("nan")), ["prediction"], ["nan"]),
    ],
)
def test_whatever_predict_step_returns_has_named_columns(tmp_path, answer, header, last):
    found, rows = written(tmp_path, answer)
    assert found[: 1 + len(header)] == ["id", *header]
    assert len(rows) == 10
    assert last is None or rows[-1] == ["9", *last]


def test_names_come_from_the_data_module(tmp_path):
    both = Rows(labels=NAMES, target_names=["u", "v"])
    header, rows = written(tmp_path, lambda x: P[x], both)
    assert (header, rows[0]) == (["id", "label", "probability"], ["0", "c", "0.5"])
    header, rows = written(tmp_path, lambda x: P[x], both, all_classes=True)
    assert header == ["id", "label", "probability", "p(a)", "p(b)", "p(c)"]
    assert written(tmp_path, lambda x: P[x], num_classes=3)[0] == ["id", "label", "probability"]
    header, rows = written(tmp_path, lambda x: x % 3, both)
    assert (header, rows[-1]) == (["id", "prediction", "label"], ["9", "0", "a"])
    assert written(tmp_path, lambda x: x, both)[0] == ["id", "prediction"]  # 9 is no class
    header, rows = written(tmp_path, lambda x: torch.stack([x, x], 1), both)
    assert (header, rows[0]) == (["id", "u", "v"], ["0", "0", "0"])
    assert written(tmp_path, lambda x: {"p": P[x]}, both)[0] == ["id", "p_a", "p_b", "p_c"]
    assert written(tmp_path, lambda x: x / 2, Rows(target_names=["price"]))[0] == ["id", "price"]
    header, rows = written(tmp_path, lambda x: P[x], Rows(target_names=["sand", "id", "clay"]))  # shares, no classes
    assert header == ["id", "sand", "prediction_id", "clay"]
    assert rows[9] == ["9", "0.7", "0.2", "0.1"]


def test_names_may_be_an_array_and_labels_may_be_those_of_all_rows(tmp_path):
    assert written(tmp_path, lambda x: P[x], Rows(labels=np.array(NAMES)))[1][0] == ["0", "c", "0.5"]
    for labels in (torch.zeros(10), [0, 1] * 5, {"a": 0}):
        assert written(tmp_path, lambda x: P[x], Rows(labels=labels), num_classes=3)[1][0] == ["0", "2", "0.5"]


def test_one_row_that_is_no_probability_makes_all_of_them_numbers(tmp_path):
    header, rows = written(tmp_path, lambda x: P[x] + (x == 9)[:, None], Rows(labels=NAMES))
    assert header == ["id", "prediction_0", "prediction_1", "prediction_2"]
    assert rows[-1] == ["9", "1.7", "1.2", "1.1"]


def test_a_row_of_nan_has_no_label(tmp_path):
    header, rows = written(tmp_path, lambda x: P[x].masked_fill((x == 8)[:, None], float("nan")), Rows(labels=NAMES))
    assert header == ["id", "label", "probability"]
    assert rows[8:] == [["8", "", "nan"], ["9", "a", "0.7"]]


def test_what_batches_say_of_their_rows(tmp_path):
    data = Rows(lambda x: {"x": x, "id": 100 + x, "text": f"t{x}"})
    header, rows = written(tmp_path, lambda x: x, data)
    assert (header, rows[-1]) == (["id", "text", "prediction"], ["109", "t9", "9"])
    data = Rows(lambda x: {"x": x, "file": f"{x}.png", "time": f"day {x}"})
    header, rows = written(tmp_path, lambda x: x, data)
    assert (header, rows[-1]) == (["id", "time", "file", "prediction"], ["9", "day 9", "9.png", "9"])
    data = Rows(lambda x: {"x": x, "prompt": f"p{x}", "text": torch.ones(3)})  # no texts
    header, rows = written(tmp_path, lambda x: ["w"] * len(x), data)
    assert (header, rows[-1]) == (["id", "prompt", "generated"], ["9", "p9", "w"])
    header, rows = written(tmp_path, lambda x: {"id": -x, "y": x})
    assert (header, rows[-1]) == (["id", "y"], ["-9", "9"])


def test_several_loaders_are_told_apart(tmp_path):
    class Two(Rows):
        def predict_dataloader(self):
            return [DataLoader([(x,) for x in part], batch_size=2) for part in ([1, 2], [3])]

    header, rows = written(tmp_path, lambda x: x, Two())
    assert header == ["loader", "id", "prediction"]
    assert rows == [["0", "0", "1"], ["0", "1", "2"], ["1", "0", "3"]]


def test_nothing_to_write(tmp_path):
    assert written(tmp_path, lambda x: None) is None
    assert list(tmp_path.iterdir()) == []
    assert len(written(tmp_path, lambda x: x if x[0] else None)[1]) == 6


def test_numbers_in_json_lines(tmp_path):
    options = {"filename": "p.jsonl", "all_classes": True}
    writer = PredictionWriter(**options)
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[writer], default_root_dir=tmp_path, barebones=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.predict(Returns(lambda x: {"p": P[x] / 0, "q": P[x], "n": x}), Rows(), return_predictions=False)
    first = json.loads(writer.path.read_text().splitlines()[0])
    assert first == {"id": 0, "p_0": None, "p_1": None, "p_2": None, "q_0": 0.2, "q_1": 0.3, "q_2": 0.5, "n": 0}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: {1, 2}, "predict_step returned set. predictions.csv takes tensors (rows, ...)"),
        (lambda x: x.sum(), "predict_step returned Tensor of shape ()"),
        (lambda x: {"loss": x.sum(), "y": x}, "predict_step returned Tensor of shape () in 'loss'"),
        (lambda x: x[:1], "predict_step returned Tensor of shape (1,) for a batch of 4 rows: 1 in it"),
        (lambda x: {"y": x, "z": x[1:]}, "predict_step returned dict of y, z for a batch of 4 rows: 4 in y, 3 in z"),
        (lambda x: x.to(torch.complex64), "predict_step returned Tensor of shape (4,)"),
        (lambda x: [P[0]] * len(x), "predict_step returned list of Tensor"),
        (lambda x: {}, "predict_step returned dict for a batch of 4 rows: nothing in it"),
        (lambda x: torch.zeros(len(x), 101, 100), "10,100 numbers for each row, and a table takes 10,000"),
        (lambda x: {"a": {"b": x}, "a_b": x}, "predict_step returned two values 'a_b'; rename a key"),
        (lambda x: {"a": P[x], "a_b": x}, "predict_step returned two columns 'a_b'; rename a key"),
        (lambda x: P[x] if x[0] else x, "for batch 1, and a value of one for each row with id for the first one"),
        (
            lambda x: torch.ones(len(x), 2) / 2,
            "probabilities of 2 classes, and the data module's labels are 3: a, b",
        ),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, answer, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        written(tmp_path, answer, Rows(labels=NAMES))
    assert list(tmp_path.iterdir()) == []
