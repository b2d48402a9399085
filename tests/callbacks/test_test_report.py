import csv
import json
import re

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import TestReport
from lightning_qsgd.callbacks.test_report import confusion_figure
from lightning_qsgd.cli import main

ROWS = [(("sun", "moon", "star")[i % 3] + f" word{i % 7}", ("day", "night", "sky")[i % 3]) for i in range(120)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A text run of three epochs: its folder, and the arguments of its data."""
    root = tmp_path_factory.mktemp("text")
    (root / "train.csv").write_text("text,label\n" + "\n".join(",".join(row) for row in ROWS) + "\n")
    arguments = [
        "--config", "configs/textcls.yaml", f"--trainer.default_root_dir={root / 'logs'}", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ]  # fmt: skip
    data = [f"--data.train_file={root / 'train.csv'}", "--data.test_share=0.2"]
    learn = ["--trainer.max_epochs=3", "--data.batch_size=8", "--model.class_weights=balanced"]
    main(["fit", *arguments, *data, *learn])
    return root / "logs" / "textcls" / "version_0", arguments, data


def test_a_table_and_a_picture_per_class(trained, capsys):
    folder, arguments, data = trained
    main(["test", *arguments, *data, "--ckpt_path=best"])
    out = capsys.readouterr().out
    assert "By class" in out
    assert f"Classes: {folder / 'classes.csv'}" in out
    with open(folder / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["label"] for row in rows) == ["day", "night", "sky"]
    assert sum(int(row["examples"]) for row in rows) == 24
    assert [float(row["f1"]) for row in rows] == sorted(float(row["f1"]) for row in rows)
    assert (folder / "confusion_matrix.png").read_bytes()[:4] == b"\x89PNG"
    metrics = json.loads((folder / "test.json").read_text())
    assert metrics["examples"] == 24
    assert "test/calibration_error" in metrics


def test_a_class_without_examples_has_no_scores_and_an_earlier_test_stays(trained, capsys):
    folder, arguments, data = trained
    main(["test", *arguments, *data, "--ckpt_path=best"])
    before = {name: (folder / name).read_bytes() for name in ("test.json", "classes.csv", "confusion_matrix.png")}
    taken = len(list(folder.glob("test_*.json")))
    few = folder.parents[2] / "few.csv"
    few.write_text("text,label\nsun word1,day\nmoon word2,night\n")
    capsys.readouterr()
    main(["test", *arguments, f"--data.test_file={few}", "--ckpt_path=best"])
    out = capsys.readouterr().out
    assert "-: no examples; test/f1 skips the class unless it was predicted\n" in out
    with open(folder / "classes.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last == {"label": "sky", "examples": "0", "precision": "", "recall": "", "f1": ""}
    assert json.loads((folder / "test.json").read_text())["examples"] == 2
    for name, content in before.items():
        path = folder / name
        assert path.with_stem(f"{path.stem}_{taken + 1}").read_bytes() == content


def test_predict_labels_raw_sentences_by_name(trained):
    folder, arguments, _ = trained
    new = folder.parents[2] / "new.jsonl"
    new.write_text('{"text": "sun again"}\n{"text": "the moon, twice"}\n{"text": "star?"}\n')
    main(["predict", *arguments, f"--data.predict_file={new}", f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"])
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "text", "label", "probability"]
    assert [row["text"] for row in rows] == ["sun again", "the moon, twice", "star?"]
    assert [row["label"] for row in rows] == ["day", "night", "sky"]
    assert all(0.3 < float(row["probability"]) <= 1 for row in rows)


def test_balanced_class_weights_stay_in_the_checkpoint(trained):
    checkpoint = torch.load(trained[0] / "checkpoints" / "best.ckpt", weights_only=True)
    counts = checkpoint["TextClassification"]["class_counts"]
    assert checkpoint["hyper_parameters"]["class_weights"] == [sum(counts) / (3 * n) for n in counts]


@pytest.mark.parametrize("classes", [3, 40])
def test_figure_fits_its_classes(classes):
    figure = confusion_figure(np.eye(classes, dtype=int) * 5, [f"class {i}" for i in range(classes)])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-1] == f"class {classes - 1}"
    assert len(figure.axes[0].texts) == (classes if classes <= 20 else 0)


TRUE = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2])
SAID = torch.tensor([0, 1, 2, 1, 1, 2, 2, 2])
LOGITS = 4.0 * torch.nn.functional.one_hot(SAID, 3)
TABLE = {  # of SAID against TRUE
    "0": {"examples": "2", "precision": "1.0", "recall": "0.5", "f1": "0.6667"},
    "1": {"examples": "2", "precision": "0.6667", "recall": "1.0", "f1": "0.8"},
    "2": {"examples": "4", "precision": "0.75", "recall": "0.75", "f1": "0.75"},
}


class Answers(L.LightningModule):
    """Returns what a function makes of a batch; batches are (number, label) or a dict of them."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def test_step(self, batch, batch_idx):
        return self.answer(batch)


class Labelled(L.LightningDataModule):
    def __init__(self, form=lambda x, y: (x, y), labels=TRUE, **attributes):
        super().__init__()
        self.form, self.true = form, labels
        for name, value in attributes.items():
            setattr(self, name, value)

    def test_dataloader(self):
        return DataLoader([self.form(x, y) for x, y in enumerate(self.true.tolist())], batch_size=3)


def report_of(tmp_path, answer, data=None):
    """The rows of classes.csv by label, and the metrics; None without a file."""
    trainer = L.Trainer(
        accelerator="cpu", logger=CSVLogger(tmp_path, "", ""), enable_progress_bar=False, callbacks=[TestReport()],
        enable_model_summary=False,
    )  # fmt: skip
    (metrics,) = trainer.test(Answers(answer), data or Labelled(), verbose=False)
    if not (tmp_path / "classes.csv").is_file():
        assert not (tmp_path / "confusion_matrix.png").exists()
        return None, metrics
    assert (tmp_path / "confusion_matrix.png").is_file()
    with (tmp_path / "classes.csv").open(newline="") as file:
        return {row.pop("label"): row for row in csv.DictReader(file)}, metrics


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (lambda b: {"logits": LOGITS[b[0]], "labels": b[1]}, Labelled()),
        (lambda b: {"loss": torch.zeros(()), "logits": LOGITS[b[0]].bfloat16(), "labels": b[1][:, None]}, Labelled()),
        (lambda b: {"probabilities": LOGITS[b[0]].softmax(-1), "labels": b[1].float()}, Labelled()),
        (lambda b: {"predictions": SAID[b[0]], "labels": b[1]}, Labelled(num_classes=3)),
        (lambda b: {"logits": LOGITS[b["x"]]}, Labelled(lambda x, y: {"x": x, "labels": y})),
        (lambda b: LOGITS[b["x"]], Labelled(lambda x, y: {"x": x, "labels": y})),
        (lambda b: LOGITS[b[0]], Labelled(num_classes=3)),
        (lambda b: LOGITS[b[0]], Labelled(labels=TRUE, num_classes=3)),
        (
            lambda b: {"logits": LOGITS[b[0] % 8], "labels": b[1]},
            Labelled(labels=torch.cat([TRUE, torch.full((4,), -100)])),
        ),
    ],
)
def test_own_classifiers_get_a_table(tmp_path, answer, data):
    table, metrics = report_of(tmp_path, answer, data)
    assert table == TABLE
    assert ("test/calibration_error" in metrics) == ("predictions" not in str(answer.__code__.co_consts))


def named(*names):
    data = Labelled()
    data.labels = list(names)
    return data


def test_classes_have_their_names(tmp_path):
    table, _ = report_of(tmp_path, lambda b: LOGITS[b[0]], named("x", "y", "z"))
    assert table == dict(zip("xyz", TABLE.values()))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_one_score_is_of_the_second_class(tmp_path, kind, shape):
    scores = torch.tensor([-1.0, 1, 2, -0.5, 1, 3, 0.1, -2])
    scores = scores if kind == "logits" else scores.sigmoid()
    data = Labelled(labels=torch.tensor([0, 1, 1, 1, 1, 0, 1, 0]))
    table, metrics = report_of(tmp_path, lambda b: {kind: scores[b[0]].view(shape), "labels": b[1].float()}, data)
    assert table["0"] == {"examples": "3", "precision": "0.6667", "recall": "0.6667", "f1": "0.6667"}
    assert table["1"] == {"examples": "5", "precision": "0.8", "recall": "0.8", "f1": "0.8"}
    assert 0 < metrics["test/calibration_error"] < 0.5


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (lambda b: None, Labelled(num_classes=3)),
        (lambda b: torch.zeros(()), Labelled(num_classes=3)),
        (lambda b: {"loss": torch.zeros(())}, Labelled(num_classes=3)),
        (lambda b: LOGITS[b[0]], Labelled()),  # nobody says that these are classes
        (lambda b: torch.rand(len(b[0]), 7), Labelled(num_classes=3)),  # an autoencoder's
        (lambda b: torch.rand(len(b["x"]), 7), Labelled(lambda x, y: {"x": x, "labels": y}, num_classes=3)),
        (lambda b: torch.rand(len(b[0]), 3), Labelled(lambda x, y: (x, float(y)), num_classes=3)),  # a regression's
        (lambda b: torch.rand(len(b["x"]), 3), Labelled(lambda x, y: {"x": x, "labels": y / 2})),
        (lambda b: torch.rand(len(b["x"]), 1), Labelled(lambda x, y: {"x": x, "labels": y})),
        (lambda b: torch.rand(len(b["x"]), 3), Labelled(lambda x, y: {"x": x})),
    ],
)
def test_what_may_be_no_classifier_is_left_alone(tmp_path, answer, data):
    assert report_of(tmp_path, answer, data) == (None, {})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda b: {"logits": LOGITS[b[0]], "labels": b[1] + 1}, "integers from 0 to 2, and 3 is among them"),
        (lambda b: {"logits": LOGITS[b[0]], "labels": b[1] + 0.5}, "integers from 0 to 2, and 0.5 is among them"),
        (lambda b: {"logits": LOGITS[b[0]]}, "test_step returned logits without labels; return {'logits': ..., 'lab"),
        (lambda b: {"predictions": SAID[b[0]], "labels": b[1]}, "give the data module num_classes, or labels"),
        (lambda b: {"logits": LOGITS[b[0]], "labels": LOGITS[b[0]]}, "logits (3, 3) and labels (3, 3); they must be"),
        (lambda b: {"logits": LOGITS[b[0]][..., None], "labels": b[1]}, "logits (3, 3, 1) and labels (3,); they must"),
        (lambda b: {"probabilities": LOGITS[b[0]], "labels": b[1]}, "outside of [0, 1]; if they are logits, name them"),
    ],
)
def test_what_is_called_a_class_and_is_none_is_refused(tmp_path, answer, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        report_of(tmp_path, answer)
    assert not (tmp_path / "classes.csv").exists()


def test_labels_of_other_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="scores of 3 classes, and the data module's labels are 2: a, b"):
        report_of(tmp_path, lambda b: {"logits": LOGITS[b[0]], "labels": b[1]}, named("a", "b"))


def test_nan_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="test_step returned NaN"):
        report_of(tmp_path, lambda b: {"logits": LOGITS[b[0]] * float("nan"), "labels": b[1]})
