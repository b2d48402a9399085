"""Small modules with a circuit in them, and circuits with known answers."""

import lightning as L
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_qsgd.quantum import Ansatz, QuantumLayer

TRAINER = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def circuit(kind, n=2):
    """Rx of one angle on each qubit; Z of each is then cos of its angle."""
    x = ParameterVector("x", n)
    gates = QuantumCircuit(n)
    for q in range(n):
        gates.rx(x[q], q)
    if kind == "parity":  # Z of the last qubit: the product of all the cosines
        for q in range(n - 1):
            gates.cx(q, q + 1)
    if kind == "constant":  # phases of outcomes, which nobody sees
        gates = QuantumCircuit(n)
        for q in range(n):
            gates.h(q)
            gates.rz(x[q], q)
    return Ansatz(gates, list(x))


class Small(L.LightningModule):
    """A user's module with a circuit, two classes, and dataloaders of its own: batches are tuples."""

    def __init__(self, layer, rows=300, batch_size=64):
        super().__init__()
        self.layer = layer
        self.read = nn.Linear(4 if layer.output == "probabilities" else len(layer.observables), 2)
        self.rows, self.batch_size = rows, batch_size
        self.failing = False

    def forward(self, x):
        return self.read(self.layer(x))

    def validation_step(self, batch, batch_idx):
        if self.failing and batch_idx == 1:
            raise ArithmeticError("on purpose")
        x, y = batch
        self.log("val/accuracy", (self(x).argmax(1) == y).float().mean(), batch_size=len(y))

    def _data(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = (torch.rand(self.rows, self.layer.ansatz.num_inputs, generator=generator) - 0.5) * 6
        labels = (x.cos().prod(1) > 0).long()
        return DataLoader(TensorDataset(x, labels), self.batch_size)

    def train_dataloader(self):
        return self._data(1)

    def val_dataloader(self):
        return self._data(2)


def small(kind="product", **options):
    """A product circuit, a parity or a constant one, read as Z of each qubit."""
    layer = {name: options.pop(name) for name in ("engine", "output") if name in options}
    ansatz = layer["engine"].ansatz if "engine" in layer else circuit(kind)
    return Small(QuantumLayer(ansatz, **{"output": "expectations"} | layer), **options)


def trainer():
    return L.Trainer(**TRAINER)
