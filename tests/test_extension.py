"""A user's own parts, in files outside of the package, named by class_path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import SMALL, TINY_ARGUMENTS, fails
from tests.optim.common import own_state

CONFIG = "configs/seqcls.yaml"
OPTIMIZER = "--model.optimizer.init_args"
PARTS = """
from functools import cached_property
from pathlib import Path

import lightning as L
import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BaseSamplerV2, StatevectorSampler

from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import Ansatz, QuantumLayer


def pair():
    angles, circuit = ParameterVector("a", 2), QuantumCircuit(2)
    for q in range(2):
        circuit.ry(angles[q], q)
    circuit.cx(0, 1)
    return Ansatz(circuit, list(angles))


class Pair(CircuitPerturbation):
    @cached_property
    def ansatz(self):
        return pair()


class Noted(BaseSamplerV2):
    def __init__(self, file: str, shots: int = 100, seed: int = 0):
        self.file, self.shots, self.seed = Path(file), shots, seed
        self.reseed(-1)

    def reseed(self, step):
        self.generator = np.random.default_rng((self.seed, step + 1))

    def run(self, pubs, *, shots=None):
        pubs = list(pubs)
        rows = sum(pub[1].shape[0] if hasattr(pub[1], "shape") else 1 for pub in pubs)
        with self.file.open("a") as file:
            print(rows, file=file)
        return StatevectorSampler(default_shots=self.shots, seed=self.generator).run(pubs, shots=shots)


class Head(torch.nn.Module):
    def __init__(self, in_features: int, num_classes: int, scale: float = 1.0):
        super().__init__()
        self.scale, self.reduce, self.last = scale, torch.nn.Linear(in_features, 2), torch.nn.Linear(2, num_classes)
        self.circuit = QuantumLayer(pair(), "expectations", observables=["Z0", "Z1"])

    def forward(self, features):
        return self.last(self.circuit(self.scale * self.reduce(features)))


class Mean(torch.nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, decay: float = 0.5):
        super().__init__()
        self.decay, self.project = decay, torch.nn.Linear(embed_dim, embed_dim)

    def forward(self, x, padding_mask=None):
        return self.decay * self.project(x.mean(1, keepdim=True)).expand_as(x)


class Count(L.Callback):
    def __init__(self, file: str):
        self.file, self.steps = Path(file), 0

    def on_train_batch_end(self, *arguments):
        self.steps += 1

    def on_fit_end(self, trainer, module):
        self.file.write_text(str(self.steps))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder, in which commands run."""
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    return tmp_path


def fit(*arguments):
    """The run's last checkpoint."""
    main(["fit", "--config", CONFIG, *SMALL, *TINY_ARGUMENTS, "--trainer.max_epochs=1", *arguments])
    return torch.load("logs/seqcls/version_0/checkpoints/last.ckpt", weights_only=True)


def test_own_circuit_and_sampler(folder):
    own = [f"{OPTIMIZER}.perturbation=parts.Pair", f"{OPTIMIZER}.perturbation.init_args.num_qubits=2"]
    sampler = f"{OPTIMIZER}.perturbation.init_args.sampler"
    options = [f"{sampler}=parts.Noted", f"{sampler}.init_args.file=asked.txt", f"{sampler}.init_args.shots=50"]
    state = own_state(fit(*own, *options)["optimizer_states"][0])
    assert state["surrogate.coefficients"].shape == (3, 3, 4)  # its own two angles, each once; four outcomes
    assert state["circuits"] == sum(map(int, Path("asked.txt").read_text().split())) >= 9
    assert state["shots"] == 50 * state["circuits"]


def test_own_head_attention_and_callback(folder):
    own = ["--model.head=parts.Head", "--model.head.init_args.scale=2", "--model.attention=parts.Mean"]
    weights = fit(*own, "--trainer.callbacks+=parts.Count", "--trainer.callbacks.file=steps.txt")["state_dict"]
    assert {"model.head.circuit.weights", "model.blocks.0.attention.project.weight"} <= weights.keys()
    assert Path("steps.txt").read_text() == "3"


def test_own_modules_data_and_perturbation(folder, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (folder / "mine.py").write_text(
        """
import lightning as L
import torch

from lightning_qsgd.optim import Perturbation


class Blobs(L.LightningDataModule):
    num_classes, vocab_size, labels = 2, 5, ["low", "high"]

    def loader(self):
        rows = [{"tokens": torch.full((3,), i % 5), "labels": torch.tensor(int(i % 5 > 2))} for i in range(40)]
        return torch.utils.data.DataLoader(rows, batch_size=8)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class Half(Perturbation):
    def __init__(self, value: float = 0.5):
        super().__init__(num_qubits=2)
        self.value = value

    def forward(self, angles, *, step):
        return torch.full_like(angles, self.value)


class Clean(L.LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Embedding(5, 2)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.layer(batch["tokens"][:, 0]), batch["labels"])

    def validation_step(self, batch, _):
        self.log("val/accuracy", (self.layer(batch["tokens"][:, 0]).argmax(-1) == batch["labels"]).float().mean())

    def predict_step(self, batch, _):
        return {"anything": 1}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
    )

    data = ["--config", CONFIG, "--data.class_path=mine.Blobs", "--trainer.accelerator=cpu"]
    own = "--model.optimizer.init_args.perturbation=mine.Half"
    fitted = subprocess.run(  # the script's folder is not the user's
        [Path(sys.executable).parent / "lightning-qsgd", "fit", *data, own, "--trainer.max_epochs=2"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    main(["predict", *data, own, "--ckpt_path=best"])
    assert "low" in Path("logs/seqcls/version_0/predictions.csv").read_text()
    model = [*data, "--model=mine.Clean", "--experiment=clean"]
    main(["fit", *model, "--trainer.max_epochs=2"])
    main(["validate", *model, "--ckpt_path=last"])
    assert json.loads(Path("logs/clean/version_0/validate.json").read_text())["val/accuracy"] > 0
    assert "predict_step returned int in 'anything'" in fails(capsys, "predict", *model, "--ckpt_path=last")
