import csv
import json

import numpy as np
import pytest
import torch

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
    assert "-: no examples; test/f1 leaves the class out, unless it was predicted\n" in out
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
