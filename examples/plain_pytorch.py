"""Superpositional Gradient Descent in a plain PyTorch loop, without Lightning.

    python plain_pytorch.py [--epochs 12] [--train_size 3200]

Each line: epoch, training loss, validation accuracy, which reaches about 90 %. The circuit ran 625 times, in the first
step; from then on its trigonometric series answers.
"""

import argparse

import torch
from torch.nn.functional import cross_entropy

from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.optim import CircuitPerturbation, SuperpositionalGradientDescent
from lightning_qsgd.quantum import AerSampler

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--train_size", type=int, default=3200)
options = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)  # the model is small
model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32)
circuit = CircuitPerturbation(num_qubits=4, depth=2, sampler=AerSampler(shots=1024))
optimizer = SuperpositionalGradientDescent(model.parameters(), lr=1e-3, quantum_weight=0.5, perturbation=circuit)
data = SyntheticSequences(train_size=options.train_size)
loader = data.train_dataloader()
for epoch in range(options.epochs):
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    losses = []
    for batch in loader:
        optimizer.zero_grad()
        loss = cross_entropy(model(batch["tokens"]), batch["labels"])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        right = [model(batch["tokens"]).argmax(-1) == batch["labels"] for batch in data.val_dataloader()]
    model.train()
    print(f"{epoch + 1:3} {sum(losses) / len(losses):.3f} {torch.cat(right).float().mean():.3f}")
print(f"{circuit.circuits} circuits, {circuit.shots} shots")
