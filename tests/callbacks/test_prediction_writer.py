import csv

import lightning as L
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
