"""Each mistake gets exit code 2 and, as the last line, one error that names the value and the way out."""

import os
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.datamodules import TextClassification
from tests.common import FEW_SHOTS, fails

CONFIG = "configs/seqcls.yaml"
SMALL = [
    "--data.train_size=64", "--data.val_size=64", "--data.test_size=64", "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]
OPTIMIZER = "--model.optimizer.init_args"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--modle.x=3"], ["--modle.x=3", "fit --help"]),
        (["--trainer.max_epohcs=3"], ["close: trainer.max_epochs", "all settings: lightning-qsgd fit --help all"]),
        (["--trainer.max_epoch=3"], ["unrecognized arguments", "close: trainer.max_epochs"]),  # no abbreviations
        (
            ["--data=lightning_qsgd.datamodules.TextClassification", "--data.trian_file=x"],
            ["data: no option 'trian_file'; close: train_file; its options: --data.help lightning_qsgd.datamodules.Te"],
        ),
        (
            [f"{OPTIMIZER}.perturbation.sampler=lightning_qsgd.quantum.FakeSampler"],
            ["sampler: no class FakeSampler in lightning_qsgd.quantum; close: AerSampler, FakeBackendSampler"],
        ),
        (["--trainer.max_epochs=many"], ["trainer.max_epochs", "many"]),
        (
            [f"{OPTIMIZER}.lrr=0.1"],
            ["model.optimizer: no option 'lrr'; close: lr; its options: --model.optimizer.help lightning_qsgd.optim."],
        ),
        ([f"{OPTIMIZER}.scope=foo"], ["model.optimizer.scope", "'first_of_tensor', 'first_of_model', 'all'", "foo"]),
        (["--data.class_path=nope.Nope"], ["data", "No module named 'nope'"]),
        (["--data.kind=parity"], ["data.kind", "'majority', 'order'", "parity"]),
        ([f"{OPTIMIZER}.perturbation=nope"], ["model.optimizer.perturbation", "nope"]),
        ([f"{OPTIMIZER}.perturbation.num_qubits=0"], ["Invalid num_qubits: 0; it must be at least 1"]),
        (
            [f"{OPTIMIZER}.perturbation.num_qubits=9", f"{OPTIMIZER}.perturbation.rotations=zero"],
            ["1,953,125 grid points", "LiveCircuitPerturbation"],
        ),
        (
            [f"{OPTIMIZER}.target=gradient", f"{OPTIMIZER}.coupling=decoupled"],
            ["gradient, gradient, decoupled; legal: "],
        ),
        ([f"{OPTIMIZER}.perturbation.sampler.device=GPU"], ["Invalid device: 'GPU'", "Use device='CPU'"]),
        ([f"{OPTIMIZER}.quantum_weight=lots"], ["model.optimizer.quantum_weight", "<class 'float'>", "lots"]),
        ([f"{OPTIMIZER}.perturbation.rotations=alined"], ["rotations", "'aligned', 'zero', 'random'", "alined"]),
        ([f"{OPTIMIZER}.perturbation=math.Nope"], ["model.optimizer.perturbation", "Nope"]),
        (["--threads=0"], ["Invalid threads: 0"]),
        (["--model.embed_dim=63"], ["Invalid num_heads: 4; embed_dim 63"]),
        (["--model.max_length=8"], ["32 per sequence; max_length is 8"]),
        (["--checkpoint.monitor=val/acc"], ["val/acc"]),
        (["--time_to_target.metric=val/acc"], ["'val/acc' is not logged", "val/accuracy"]),
        (["--config=configs/seqcl.yaml"], ["No configuration 'configs/seqcl.yaml'", "Shipped: seqcls"]),
        (["--ckpt_path=last", "--experiment=none"], ["No last checkpoint: no run in", "none has one"]),
        (["--ckpt_path=nowhere.ckpt"], ["Checkpoint nowhere.ckpt not found"]),
        (["--trainer.strategy=fsdp"], ["`fsdp` requires a GPU accelerator, but received `accelerator='cpu'`"]),
        (["--data.val_size=1", *TWO], ["error: Invalid trainer.devices: 2 processes for 1 examples"]),
    ],
)
def test_wrong_arguments(capsys, tmp_path, arguments, words):
    few = [] if any("sampler" in argument for argument in arguments) else [FEW_SHOTS]
    root = f"--trainer.default_root_dir={tmp_path}"
    last = fails(capsys, "fit", "--config", CONFIG, *few, root, *SMALL, *arguments)
    for word in words:
        assert word in last
    assert len(last) < 400


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("missing.csv", None, ["File not found", "missing.csv"]),
        ("empty.csv", "text,label\n", ["empty.csv is empty"]),
        ("column.csv", "sentence,label\na,b\n", ["column 'text' is missing; there are: sentence, label"]),
        ("gap.csv", "text,label\na,b\nc,\n", ["gap.csv, line 3: column 'label' is empty; remove it"]),
    ],
)
def test_wrong_files(capsys, tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    root = f"--trainer.default_root_dir={tmp_path}"
    last = fails(capsys, "fit", "--config=configs/textcls.yaml", root, f"--data.train_file={tmp_path / name}")
    for word in words:
        assert word in last


def test_unknown_label(capsys, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "a,x\nb,y\n" * 10)
    (tmp_path / "val.csv").write_text("text,label\na,hot\n")
    files = [f"--data.{split}_file={tmp_path / split}.csv" for split in ("train", "val")]
    last = fails(capsys, "fit", "--config=configs/textcls.yaml", f"--trainer.default_root_dir={tmp_path}", *files)
    assert "val.csv, line 2: label 'hot' is not a label of the training data: x, y" in last


def test_text_without_a_file_says_what_to_type(capsys, tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    assert "--data.train_file=" in fails(capsys, "fit", "--config=configs/textcls.yaml", root)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_wrong_checkpoints(capsys, tmp_path, monkeypatch):
    config = str(Path(CONFIG).resolve())
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", config, FEW_SHOTS, *SMALL])
    good = Path("logs/seqcls/version_0/checkpoints/best.ckpt")

    def test(file):
        return fails(capsys, "test", "--config", config, *SMALL, f"--ckpt_path={file}")

    Path("cut.ckpt").write_bytes(good.read_bytes()[:2000])
    assert "cut.ckpt cannot be read: it was cut off" in test("cut.ckpt")
    Path("text.ckpt").write_text("hello")
    assert "text.ckpt cannot be read" in test("text.ckpt")
    torch.save({"x": Hostile()}, "hostile.ckpt")
    assert "hostile.ckpt cannot be read: it holds more than tensors" in test("hostile.ckpt")
    assert not Path("executed").exists()
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert "foreign.ckpt holds only weights, and is not a checkpoint of Lightning" in test("foreign.ckpt")
    torch.save({"weights": {}}, "foreign.ckpt")
    assert "foreign.ckpt is no checkpoint: it has no state_dict" in test("foreign.ckpt")
    checkpoint = torch.load(good, weights_only=True)
    checkpoint["state_dict"] = {"layer.weight": torch.ones(1)}
    torch.save(checkpoint, "other.ckpt")
    assert "The checkpoint belongs to another model" in test("other.ckpt")
    assert "'auto' is for fit; test takes last, best, or a file" in test("auto")
    assert "test needs a trained model: add --ckpt_path" in fails(capsys, "test", "--config", config)
    sine = f"{OPTIMIZER}.perturbation=lightning_qsgd.optim.SinePerturbation"
    resume = ["--ckpt_path=last", *SMALL, "--trainer.max_epochs=2"]
    assert "belongs to CircuitPerturbation" in fails(capsys, "fit", "--config", config, *resume, sine)
    adamw = fails(capsys, "fit", "--config", config, *resume, "--model.optimizer=torch.optim.AdamW")
    assert "The run used lightning_qsgd.optim.SuperpositionalGradientDescent" in adamw
    assert "has torch.optim.AdamW; resume with --config" in adamw


def test_a_start_that_fails_leaves_no_run_behind(capsys, tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    fails(capsys, "fit", "--config", CONFIG, root, *SMALL, "--model.embed_dim=63")
    assert list((tmp_path / "seqcls").iterdir()) == []


def test_a_failed_run_with_a_checkpoint_stays(capsys, tmp_path):
    callback = "--trainer.callbacks=tests.ranks.FailAfterCheckpoint"
    last = fails(capsys, "fit", "--config", CONFIG, f"--trainer.default_root_dir={tmp_path}", *SMALL, callback)
    assert last == "error: tests/ranks.py:27 in on_train_batch_start: RuntimeError: on purpose"
    assert (tmp_path / "seqcls" / "version_0" / "checkpoints" / "last.ckpt").is_file()


def test_predict_without_a_file_asks_for_one(capsys, tmp_path):
    with pytest.raises(ValueError, match=r"No file for predict: set predict_file, for example --data.predict_file="):
        TextClassification().examples("predict")


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="Invalid threads: 0"):
        main(["fit", "--config", CONFIG, "--threads=0", "--debug"])


@pytest.mark.parametrize(
    ("command", "missing", "example"),
    [
        ("fit", "data, model", "lightning-qsgd fit --config configs/seqcls.yaml"),
        ("test", "data, model", "lightning-qsgd test --config configs/seqcls.yaml --ckpt_path best"),
        ("init", "folder", "lightning-qsgd init my_project --kind table"),
        ("audit", "-c/--config", "lightning-qsgd audit --config configs/seqcls.yaml"),
        ("calibrate", "-c/--config", "lightning-qsgd calibrate --config configs/seqcls.yaml --dry_run"),
    ],
)
def test_what_a_command_needs_comes_with_an_example(capsys, command, missing, example):
    assert fails(capsys, command) == f"error: Missing: {missing}; for example: {example}"


@pytest.mark.parametrize("command", ["audit", "calibrate"])
def test_a_misspelled_option_of_a_command_that_hands_on_the_rest(capsys, command):
    last = fails(capsys, command, "--config", CONFIG, "--trainer.max_epohcs=3")
    assert "unrecognized arguments: --trainer.max_epohcs=3; close: trainer.max_epochs" in last


def test_a_misspelled_option_in_a_file(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_epohcs: 1\n")
    last = fails(capsys, "fit", "--config", CONFIG, "--config", str(tmp_path / "mine.yaml"))
    assert "option 'trainer.max_epohcs'; close: trainer.max_epochs" in last


def test_an_option_of_no_class(capsys):
    assert "data: lightning.LightningDataModule has no options" in fails(capsys, "fit", "--data.train_file=x")
