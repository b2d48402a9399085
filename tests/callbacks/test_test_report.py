import csv
import json
import re

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import TestReport
from lightning_qsgd.cli import main
from lightning_qsgd.datamodules import evaluation_loader

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


def test_tables_and_pictures_of_classes(trained, capsys):
    folder, arguments, data = trained
    own = {file: file.read_bytes() for file in [*folder.glob("events.out.*"), folder / "metrics.csv"]}
    main(["test", *arguments, *data, "--ckpt_path=best"])
    out = capsys.readouterr().out
    assert "By class" in out
    assert f"Classes: {folder / 'classes.csv'}" in out
    with open(folder / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["label"] for row in rows) == ["day", "night", "sky"]
    assert sum(int(row["examples"]) for row in rows) == 24
    assert [float(row["f1"]) for row in rows] == sorted(float(row["f1"]) for row in rows)
    for name in ("confusion_matrix.png", "calibration.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
        assert str(folder / name) in out
    metrics = json.loads((folder / "test.json").read_text())
    assert metrics["examples"] == 24
    assert "test/calibration_error" in metrics
    assert own == {file: file.read_bytes() for file in [*folder.glob("events.out.*"), folder / "metrics.csv"]}
    events = EventAccumulator(str(folder / "test")).Reload()
    assert {"test/confusion_matrix", "test/calibration"} <= set(events.Tags()["images"])
    (image,) = events.Images("test/calibration")
    with Image.open(folder / "calibration.png") as picture:
        assert (image.width, image.height) == picture.size
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert image.step == checkpoint["global_step"] > 0


def test_a_class_without_examples_has_no_scores_and_an_earlier_test_stays(trained, capsys):
    folder, arguments, data = trained
    main(["test", *arguments, *data, "--ckpt_path=best", "--trainer.logger=false"])
    assert len(list((folder / "test").glob("*"))) <= 1  # only from the test above
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
    assert (last["label"], last["examples"], last["note"]) == ("sky", "0", "no examples")
    assert not any(last[name] for name in last if name.startswith(("precision", "recall", "f1")))
    assert "one example" in out
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


SCORES = ("examples", "precision", "recall", "f1")


def report_of(tmp_path, answer, data=None):
    """The rows of classes.csv by label, their scores only, and the metrics; None without a file."""
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
        return {row["label"]: {name: row[name] for name in SCORES} for row in csv.DictReader(file)}, metrics


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


def table_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images_of(count=60, channels=1):
    """A data module of images in three classes with files; image i is i everywhere but in one corner, i + 1."""
    rows = [{"inputs": torch.full((channels, 4, 6), float(i)), "labels": i % 3, "id": 100 + i} for i in range(count)]
    for i, row in enumerate(rows):
        row["inputs"][:, 0, 0] += 1
        row["file"] = f"folder/{i}.png"
    data = Labelled()
    data.test_dataloader = lambda: DataLoader(rows, batch_size=7)
    return data


def always_first(batch):
    """Probability 0.5 to 0.95 of class 0, higher for later rows: rows of the classes 1 and 2 are mistakes."""
    first = 0.5 + (batch["id"] - 100) / 200
    rest = (1 - first) / 2
    return {"probabilities": torch.stack([first, rest, rest], 1)}


def test_the_most_confident_mistakes(tmp_path):
    data = images_of(90)
    data.labels = ["a", "b", "c"]
    report_of(tmp_path, always_first, data)
    rows = table_of(tmp_path / "mistakes.csv")
    wrong = [i for i in range(89, -1, -1) if i % 3]
    assert [int(row["id"]) - 100 for row in rows] == wrong[:50]
    assert rows[0] == {
        "id": "189", "file": "folder/89.png", "true": "c", "predicted": "a", "probability": f"{0.5 + 89 / 200:.4g}"
    }  # fmt: skip
    assert (tmp_path / "mistakes.png").read_bytes()[:4] == b"\x89PNG"


def test_pictures_of_the_data_module_are_shown(tmp_path):
    asked = []
    data = images_of(channels=3)
    data.pictures = lambda inputs: asked.append(inputs) or inputs.permute(0, 2, 3, 1) / 60
    report_of(tmp_path, always_first, data)
    assert [int(inputs[0, 0, 1, 1]) for inputs in asked] == [i for i in range(59, -1, -1) if i % 3][:16]


def test_pictures_of_another_shape_are_refused(tmp_path):
    data = images_of()
    data.pictures = lambda inputs: inputs
    with pytest.raises(ValueError, match=re.escape("pictures() made (1, 1, 4, 6) of inputs (1, 1, 4, 6); it must ret")):
        report_of(tmp_path, always_first, data)


def test_without_images_mistakes_have_a_table_only(tmp_path):
    report_of(tmp_path, lambda b: {"logits": LOGITS[b[0]], "labels": b[1]})
    rows = table_of(tmp_path / "mistakes.csv")
    assert sorted((row["id"], row["true"], row["predicted"]) for row in rows) == [("3", "2", "1"), ("5", "0", "2")]
    assert not (tmp_path / "mistakes.png").exists()


NUMBERS = torch.tensor([[1.0, 1e6], [2.0, 2e6], [4.0, 3e6], [3.0, 5e6], [5.0, 1e6]])
BEFORE = torch.tensor([[0.0, 1e6], [1.0, 1e6], [2.0, 2e6], [4.0, 3e6], [3.0, 5e6]])


def numbers_of(tmp_path, answer, names=("load+1", "load+2"), logger=None):
    """The rows of targets.csv, or None, of a module that returns ``answer(places)``."""
    trainer = L.Trainer(
        accelerator="cpu", logger=logger or CSVLogger(tmp_path, "", ""), enable_progress_bar=False,
        callbacks=[TestReport()], enable_model_summary=False,
    )  # fmt: skip
    data = Labelled(labels=torch.zeros(5, dtype=torch.int64), **({"target_names": list(names)} if names else {}))
    trainer.test(Answers(lambda batch: answer(batch[0])), data, verbose=False)
    return table_of(tmp_path / "targets.csv") if (tmp_path / "targets.csv").is_file() else None


def test_numbers_have_a_table_and_pictures(tmp_path):
    rows = numbers_of(tmp_path, lambda i: {"predictions": NUMBERS[i] + 0.5, "targets": NUMBERS[i]})
    shown = {name: [row[name] for row in rows] for name in rows[0]}
    assert shown == {
        "target": ["load+1", "load+2"], "rows": ["5", "5"], "mse": ["0.25", "0.25"], "mae": ["0.5", "0.5"],
        "r2": ["0.875", "1"], "bias": ["0.5", "0.5"], "residual_sd": ["0", "0"],
    }  # fmt: skip
    assert (tmp_path / "predicted.png").read_bytes()[:4] == b"\x89PNG"
    assert not {"forecast.png", "classes.csv", "confusion_matrix.png"} & {file.name for file in tmp_path.iterdir()}


def test_forecasts_are_compared_with_persistence_and_earlier_ones_stay(tmp_path):
    def answer(i):
        return {"predictions": NUMBERS[i], "targets": NUMBERS[i] + 1, "persistence": BEFORE[i] + 1}

    rows = numbers_of(tmp_path, answer, logger=TensorBoardLogger(tmp_path, "", ""))
    naive = ((NUMBERS - BEFORE) ** 2).mean(0).tolist()
    assert [float(row["skill"]) for row in rows] == pytest.approx([1 - 1 / mse for mse in naive], abs=1e-5)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["test/predicted", "test/forecast"]
    before = (tmp_path / "forecast.png").read_bytes()
    numbers_of(tmp_path, lambda i: {"predictions": NUMBERS[i, 0], "targets": NUMBERS[i, 0]}, names=())
    assert (tmp_path / "forecast_1.png").read_bytes() == before
    assert not (tmp_path / "forecast.png").exists()
    assert [row["target"] for row in table_of(tmp_path / "targets.csv")] == ["target_0"]


def test_nan_among_numbers_is_told_and_not_averaged_away(tmp_path):
    wrong = NUMBERS.clone()
    wrong[3, 1] = float("nan")
    with pytest.warns(UserWarning, match=re.escape("infinite numbers in 1 of load+2 (5 rows)")):
        rows = numbers_of(tmp_path, lambda i: {"predictions": wrong[i], "targets": NUMBERS[i]})
    assert [row["mse"] for row in rows] == ["0", "nan"]
    assert (tmp_path / "predicted.png").is_file()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda i: {"predictions": NUMBERS[i], "targets": NUMBERS[i, :1]}, "predictions (3, 2), targets (3, 1); all m"),
        (lambda i: {"predictions": NUMBERS[i], "targets": NUMBERS[i, 0]}, "predictions (3, 2), targets (3,); all must"),
        (lambda i: {"predictions": NUMBERS[i][..., None], "targets": NUMBERS[i][..., None]}, "all must be (B, K)"),
        (lambda i: {"predictions": NUMBERS[i], "targets": NUMBERS[i], "persistence": NUMBERS[i, :1]}, "persistence (3"),
        (lambda i: {"predictions": NUMBERS[i, :1], "targets": NUMBERS[i, :1]}, "1 numbers for each row, and the data"),
        (
            lambda i: {"predictions": NUMBERS[i], "targets": NUMBERS[i]} | ({"persistence": BEFORE[i]} if i[0] else {}),
            "2 numbers for each row with persistence, and before 2 numbers for each row without persistence",
        ),
    ],
)
def test_numbers_of_other_shapes_are_refused(tmp_path, answer, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        numbers_of(tmp_path, answer)
    assert not (tmp_path / "targets.csv").exists()


def test_numbers_that_may_be_anything_are_left_alone(tmp_path):
    assert numbers_of(tmp_path, lambda i: {"outputs": NUMBERS[i], "targets": NUMBERS[i]}) is None


class Both(L.LightningModule):
    """Classifies the rows of the first loader, and forecasts numbers for those of the second one."""

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        number = batch["id"].double()
        if dataloader_idx == 0:
            return always_first(batch)
        numbers = torch.stack([number, number.sin()], 1)
        return {"predictions": numbers + number[:, None].cos(), "targets": numbers, "persistence": numbers - 1}


class Two(L.LightningDataModule):
    def test_dataloader(self):
        images = [{"id": 100 + i, "labels": i % 3, "inputs": torch.full((1, 2, 2), float(i))} for i in range(60)]
        return [evaluation_loader(rows, 8, self.trainer) for rows in (images, [{"id": i} for i in range(2500)])]


def test_two_ranks_write_what_one_process_does(tmp_path):
    for devices, folder in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        trainer = L.Trainer(
            accelerator="cpu", devices=devices, strategy="auto" if devices == 1 else "ddp_fork",
            logger=CSVLogger(folder, "", ""), enable_progress_bar=False, callbacks=[TestReport()],
            enable_model_summary=False,
        )  # fmt: skip
        trainer.test(Both(), Two(), verbose=False)
    names = {file.name for file in (tmp_path / "one").iterdir()} - {"metrics.csv", "hparams.yaml"}
    assert names >= {"classes.csv", "mistakes.csv", "mistakes.png", "targets.csv", "predicted.png", "forecast.png"}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


class Load(L.LightningDataModule):
    target_names = ("load+1", "load+2")

    def test_dataloader(self):
        return DataLoader(range(5), batch_size=3)


class Forecaster(L.LightningModule):
    """Says 1 more than is true; the last load never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.nn.Parameter(torch.ones(()))

    def test_step(self, batch, batch_idx):
        targets = NUMBERS[batch]
        return {"predictions": targets + self.extra, "targets": targets, "persistence": targets * torch.tensor([2, 1])}


def test_the_command_prints_the_table_of_targets(tmp_path, capsys):
    state = {"state_dict": Forecaster().state_dict(), "global_step": 7, "pytorch-lightning_version": L.__version__}
    torch.save(state, tmp_path / "own.ckpt")
    where = "tests.callbacks.test_test_report"
    main(["test", f"--model={where}.Forecaster", f"--data={where}.Load", f"--ckpt_path={tmp_path / 'own.ckpt'}"])
    out = capsys.readouterr().out
    assert re.search(r"load\+1 +│ 5 +│ 1 +│ 1 +│ 0.5 +│ 1 +│ 0 +│ 0.9091", out)
    assert re.search(r"load\+2 .*│ - +│\n", out)
    assert "-: undefined, because all true values are equal, or persistence makes no error\n" in out
    assert f"Targets: {tmp_path / 'targets.csv'}\n" in out
    assert f"Pictures: {tmp_path / 'predicted.png'}, {tmp_path / 'forecast.png'}\n" in out
    assert json.loads((tmp_path / "test.json").read_text())["examples"] == 5
    events = EventAccumulator(str(tmp_path / "test")).Reload()
    assert [image.step for image in events.Images("test/forecast")] == [7]
