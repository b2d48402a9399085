"""What ends a run, said in one line; the checkpoints that are there stay whole."""

import errno
import os
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

from lightning_qsgd.cli import main
from lightning_qsgd.comparison.runner import Runner
from lightning_qsgd.comparison.spec import Arm, Comparison, Metric, Seeds
from lightning_qsgd.failures import explain, is_of_other_weights, is_out_of_memory, memory_advice, origin_of
from lightning_qsgd.files import find_config
from lightning_qsgd.quantum import QuantumLayer
from lightning_qsgd.report.numbers import duration
from lightning_qsgd.scrubbing import without_secrets
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS, fails

FAULTY = [
    "--config=configs/seqcls.yaml",
    FEW_SHOTS,
    *SMALL,
    "--data=tests.faulty_data.FaultyData",
    "--data.num_workers=2",
]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit", ["A process that loads data died: DataLoader worker (pid", "exited unexpectedly", "--shm-size"]),
        pytest.param("kill", ["A process that loads data died: DataLoader worker (pid"], marks=pytest.mark.slow),
        (
            "raise",
            [
                "error: Loading data failed (Caught ValueError in DataLoader worker process ",
                "): tests/faulty_data.py:40 in __getitem__: ValueError: row 41: the text is broken",
            ],
        ),
    ],
)
def test_a_data_loading_process_that_fails(capsys, tmp_path, fault, words):
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.root={tmp_path}", f"--data.fault={fault}"]
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *FAULTY, *arguments, "--trainer.max_epochs=3"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert len(last) < 500
    for word in words:
        assert word in last
    saved = torch.load(tmp_path / "seqcls" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 3 <= saved["global_step"] < 6  # of the first epoch's end, or of the last whole step before the fault


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n lines"), "two lines"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (RuntimeError("x" * 5000), "x" * 1000),
    ],
)
def test_one_line(error, line):
    assert explain(error).startswith(line)
    assert len(explain(error)) <= 1000


def test_weights_of_another_model():
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())
    assert is_of_other_weights(caught.value)
    assert "The checkpoint belongs to another model: Error(s) in loading state_dict" in explain(caught.value)
    assert not is_of_other_weights(RuntimeError("Error(s) in loading state_dict"))


MINE = """\
import lightning as L
import torch
from torch.utils.data import DataLoader

from lightning_qsgd.quantum import QuantumLayer, layered_circuit


class Rows(torch.utils.data.Dataset):
    def __init__(self, where):
        self.where = where

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {}["no row"] if self.where == "item" else torch.ones(3)


class Data(L.LightningDataModule):
    def __init__(self, where: str = "", num_workers: int = 0):
        super().__init__()
        self.where, self.num_workers = where, num_workers

    def setup(self, stage):
        if self.where == "setup":
            open("nowhere.csv")

    def train_dataloader(self):
        return DataLoader(Rows(self.where), batch_size=4, num_workers=self.num_workers)

    val_dataloader = test_dataloader = train_dataloader


class Net(L.LightningModule):
    def __init__(self, where: str = ""):
        super().__init__(), self.save_hyperparameters()
        self.where, self.layer = where, torch.nn.Linear(3, 2)
        if where == "init":
            self.layer.nothing()
        if where == "circuit":
            QuantumLayer(layered_circuit(2), "expectations", observables=["W0"])

    def training_step(self, batch, batch_idx):
        if self.where == "step":
            return None.nothing
        if self.where == "shape":
            self.layer(torch.ones(2, 5))
        if self.where == "raise":
            raise ValueError("of my\\nown")
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", self.layer(batch).mean())

    def test_step(self, batch, batch_idx):
        return {"rows": 5}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=-1 if self.where == "lr" else 0.1)


class Watch(L.Callback):
    def on_train_start(self, trainer, module):
        assert trainer.max_epochs == 5, "too few"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's folder, and a command in it, for modules in files of theirs."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "syntax.py").write_text("x = 1\ny = (\n")
    (tmp_path / "names.py").write_text("x = 1\ny = nowhere_defined\n")
    (tmp_path / "imports.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "syntax", "names", "imports"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return ["--model=mine.Net", "--data=mine.Data", "--trainer.max_epochs=1", *quiet]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model.where=init"], "mine.py:39 in __init__: AttributeError: 'Linear' object has no attribute 'nothing'"),
        (
            ["--model.where=circuit"],
            "mine.py:41 in __init__: Invalid observable: 'W0'; it must be a product of X, Y and Z",
        ),
        (["--model.where=step"], "mine.py:45 in training_step: AttributeError: 'NoneType' object has no attribute"),
        (["--model.where=shape"], "mine.py:47 in training_step: RuntimeError: mat1 and mat2 shapes cannot be"),
        (["--model.where=raise"], "mine.py:49 in training_step: ValueError: of my own"),
        (["--model.where=lr"], "mine.py:59 in configure_optimizers: ValueError: Invalid learning rate: -1"),
        (["--data.where=setup"], "mine.py:26 in setup: FileNotFoundError: [Errno 2] No such file or directory: 'no"),
        (["--data.where=item"], "mine.py:16 in __getitem__: KeyError: 'no row'"),
        (
            ["--data.where=item", "--data.num_workers=1"],
            "Loading data failed (Caught KeyError in DataLoader worker process 0): mine.py:16 in __getitem__: ",
        ),
        (["--trainer.callbacks=mine.Watch"], "mine.py:64 in on_train_start: AssertionError: too few"),
        (["--model=syntax.Net"], "syntax.py:2 in its text: SyntaxError: '(' was never closed"),
        (["--model=names.Net"], "names.py:2 in <module>: NameError: name 'nowhere_defined' is not defined"),
        (["--model=imports.Net"], "imports.py:1 in <module>: ModuleNotFoundError: No module named 'nothing_of_this_na"),
        (
            ["--trainer.strategy=ddp_fork", "--trainer.devices=2", "--model.where=step"],
            "mine.py:45 in training_step: AttributeError: 'NoneType' object has no attribute",
        ),
    ],
)
def test_errors_in_a_users_file_name_file_and_line(mine, capsys, arguments, line):
    last = fails(capsys, "fit", *mine, *arguments)
    assert last.startswith(f"error: {line}"), last
    assert len(last) < 400


def test_an_error_in_the_package_is_to_be_reported(mine, capsys, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh")
    main(["fit", *mine])
    secret = ["--experiment=abcdefgh", "--ckpt_path=logs/experiment/version_0/checkpoints/last.ckpt"]
    with pytest.raises(SystemExit) as caught:
        main(["test", *mine, *secret])
    assert caught.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: TypeError: 'int' object is not iterable; unexpected, in ")
    for words in ("test_report.py:", "in on_test_batch_end", "please report", "--debug", f"torch {version('torch')}"):
        assert words in last
    assert "lightning-qsgd test --model=mine.Net" in last
    assert "abcdefgh" not in last
    with pytest.raises(TypeError):
        main(["test", *mine, *secret, "--debug"])


def test_a_comparison_names_the_file_too(mine, tmp_path):
    (tmp_path / "base.yaml").write_text(
        "model: mine.Net\ndata: mine.Data\ntrainer: {max_epochs: 1, accelerator: cpu}\n"
    )
    arms = {"good": Arm(), "bad": Arm(set={"model.init_args.where": "step"})}
    seeds = Seeds([1], [11], keys=["seed_everything"])
    spec = Comparison("t", ["base.yaml"], Metric(0.01), arms, "good", seeds=seeds, root=str(tmp_path))
    run = Runner(spec, workers=1).run().of("bad")[1]
    assert run.status == "failed"
    assert run.error.startswith("mine.py:45 in training_step: AttributeError: 'NoneType' object has no attribute")


def test_refusals_and_mistakes_are_told_apart():
    def origin(function, *arguments):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            function(*arguments)
        return origin_of(caught.value)

    refused = origin(QuantumLayer, "nothing")
    assert not refused.is_bug
    assert refused.user.place.startswith("tests/test_failures.py:")
    mistaken = origin(duration, "a word")  # a type that pyright would refuse
    assert (mistaken.kind, mistaken.is_bug, mistaken.last.function) == ("TypeError", True, "duration")
    assert not origin(find_config, "nowhere").is_bug
    own = origin(lambda: [][1])
    assert (own.kind, own.is_bug, own.last) == ("IndexError", False, own.user)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["fit", "--x.token", "abc", "--y=1"], ["fit", "--x.token", "***", "--y=1"]),
        (["fit", "--x.token=abc", "--api_key=d", "z"], ["fit", "--x.token=***", "--api_key=***", "z"]),
        (["fit", "--model.tokens", "5", "--key"], ["fit", "--model.tokens", "***", "--key"]),
    ],
)
def test_a_reported_command_has_no_secrets(arguments, shown):
    assert without_secrets(arguments) == shown


# ---- memory

LARGE = [
    "--config=configs/seqcls.yaml", *SMALL, *TINY_ARGUMENTS, "--model.feedforward_dim=1000000000000",
    "--data.batch_size=16", "--trainer.max_epochs=1",
]  # fmt: skip


def test_a_model_too_large_for_memory_ends_in_one_line_of_advice(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *LARGE, f"--trainer.default_root_dir={tmp_path}"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Out of memory (")
    for words in (
        "can't allocate memory: you tried to allocate 32000000000000 bytes",
        "smaller batch_size (now 16) with more trainer.accumulate_grad_batches (now 1)",
        "model.checkpoint_activations true (now false)",
        "trainer.precision bf16-mixed or bf16-true (now 32-true)",
    ):
        assert words in last
    assert len(last) < 500
    assert not list((tmp_path / "seqcls").iterdir())


def test_advice_names_the_settings_that_are_not_yet_saving():
    config = {
        "trainer": {"precision": "bf16-true"},
        "model": {
            "init_args": {
                "checkpoint_activations": True,
                "attention": {"class_path": "x", "init_args": {"kernel": "plain"}},
                "optimizer": {"class_path": "x", "init_args": {"scope": "all"}},
            }
        },
        "data": {},
    }
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB. If reserved but X")
    line = memory_advice(error, config, training=True)
    assert "out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB)" in line
    assert "If reserved" not in line
    assert "kernel fused (now plain)" in line
    assert "scope first_of_tensor (now all)" in line
    assert not any(words in line for words in ("batch_size", "checkpoint_activations", "precision"))
    assert "scope" not in memory_advice(error, config, training=False)
    assert memory_advice(MemoryError(), {}, training=True).startswith("Out of memory (MemoryError).")


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(10**13)
    with pytest.raises(MemoryError) as numpys:
        np.empty(10**16)
    assert is_out_of_memory(torchs.value)
    assert is_out_of_memory(numpys.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))
