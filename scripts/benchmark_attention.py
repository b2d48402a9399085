"""Measure quantum attention and classical attention side by side, on one thread: `make bench`.

Sides take turns in rotating order, with two calls each, of which the second is timed. Times are medians over rounds.
Ratios are medians of the ratio within a round, with a 95 % bootstrap interval, as in benchmark.py.
"""

import argparse
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from benchmark import ratio
from benchmark_circuits import interleave
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.models import Attention, QuantumAttention, TransformerClassifier, series_attention
from lightning_qsgd.models.attention_kernels import Kernel
from lightning_qsgd.quantum import Ansatz, ExactSampler, QuantumNetwork, ScoreSeries, score_circuit

SHAPES = ((32, 4, 32, 16), (8, 8, 128, 64))  # batch, heads, tokens, numbers per head
BRUTE_FORCE = 64  # scores
Step = Callable[[], object]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def forward_and_backward(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> Step:
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)


def functions(shape: tuple[int, int, int, int], kernels: tuple[Kernel, ...]) -> dict[str, Step]:
    """Measure softmax(S + Phi(S)) V of given q, k, v, without projections and dropout."""
    batch, heads, tokens, size = shape
    q, k, v = (torch.randn(batch, heads, tokens, size, requires_grad=True) for _ in range(3))
    grad = torch.randn(batch, heads, tokens, size)
    series = ScoreSeries(heads)
    coefficients = series()[:, 1:].detach().requires_grad_()
    scale = torch.ones(heads, requires_grad=True)
    steps = {
        "explicit": forward_and_backward(explicit, [q, k, v], grad),
        "scaled_dot_product_attention": forward_and_backward(F.scaled_dot_product_attention, [q, k, v], grad),
    }
    for kernel in kernels:

        def with_circuits(q: Tensor, k: Tensor, v: Tensor, scale: Tensor, _: Tensor, kernel: Kernel = kernel) -> Tensor:
            return series_attention(q, k, v, series()[:, 1:], scale, kernel=kernel)

        function = partial(series_attention, kernel=kernel)
        steps[f"series, {kernel}"] = forward_and_backward(function, [q, k, v, coefficients, scale], grad)
        inputs = [q, k, v, scale, series.weights]
        steps[f"series, {kernel}, and its circuits"] = forward_and_backward(with_circuits, inputs, grad)
    return steps


class ExplicitAttention(Attention):
    """Attention in plain tensor operations."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return F.dropout(weights, self.dropout, self.training) @ v


def blocks(shape: tuple[int, int, int, int], kernels: tuple[Kernel, ...], dropout: float) -> dict[str, Step]:
    """Measure whole attention modules, with projections, dropout, and the circuits of Phi in each pass."""
    batch, heads, tokens, size = shape
    x = torch.randn(batch, tokens, heads * size)
    grad = torch.randn_like(x)
    sides: dict[str, Callable[..., torch.nn.Module]] = {"explicit": ExplicitAttention, "Attention": Attention}
    sides |= {f"QuantumAttention, {kernel}": partial(QuantumAttention, kernel=kernel) for kernel in kernels}
    steps: dict[str, Step] = {}
    for name, make in sides.items():
        torch.manual_seed(0)
        module = make(heads * size, heads, dropout)
        inputs = [x.clone().requires_grad_(), *module.parameters()]
        steps[name] = forward_and_backward(lambda x, *_, module=module: module(x), inputs, grad)
    return steps


def training_steps(kernels: tuple[Kernel, ...]) -> dict[str, Step]:
    """Measure steps of configs/seqcls_quantum_attention.yaml, its classical twin, and a series without circuits."""
    batch = next(iter(SyntheticSequences("order").train_dataloader()))
    arms: dict[str, Any] = {"classical": "classical"}
    for kernel in kernels:
        arms[f"quantum, {kernel}"] = partial(QuantumAttention, kernel=kernel)
        arms[f"trained series, {kernel}"] = partial(QuantumAttention, kernel=kernel, phi="series")
    steps: dict[str, Step] = {}
    for name, attention in arms.items():
        torch.manual_seed(0)
        model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32, attention=attention)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)

        def step(model: torch.nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(batch["tokens"]), batch["labels"]).backward()
            optimizer.step()

        steps[name] = step
    return steps


def table(title: str, steps: dict[str, Step], rounds: int, bases: tuple[str, ...], goals: dict[str, str]) -> Table:
    """Medians, and ratios to each base."""
    out = Table(title=title, title_justify="left")
    for column in ("", "ms", *(f"/ {base} [95 %]" for base in bases), "goal"):
        out.add_column(column)
    seconds = interleave(steps, rounds, warmup=5)
    for name, values in seconds.items():
        ratios = ["1" if base == name else str(ratio(values, seconds[base])) for base in bases]
        out.add_row(name, f"{np.median(values) * 1e3:.2f}", *ratios, goals.get(name, ""))
    return out


def brute_force() -> Table:
    """One circuit per score through SamplerQNN, gradients by parameter shift, extrapolated to one layer's scores."""
    ansatz = score_circuit()
    network = QuantumNetwork(Ansatz(ansatz.circuit, [*ansatz.inputs, *ansatz.weights]), ExactSampler())
    inputs = np.random.default_rng(0).normal(size=(BRUTE_FORCE, 1 + ansatz.num_weights))

    def one_each() -> None:
        network.probabilities(inputs)
        network.jacobian(inputs)

    series = ScoreSeries(1, sampler=ExactSampler())
    seconds = interleave({"each": one_each}, rounds=5, warmup=1)
    per_score = float(np.median(seconds["each"])) / BRUTE_FORCE
    out = Table(title="Circuits of one layer and one batch, forward (and for the gradient)", title_justify="left")
    for column in ("shape", "one per score", "series", "times fewer", "exact SamplerQNN, forward and backward", "goal"):
        out.add_column(column)
    for batch, heads, tokens, size in SHAPES:
        scores, circuits = batch * heads * tokens**2, heads * series.nodes
        shifts = series.circuits_per_gradient // series.nodes
        out.add_row(
            str((batch, heads, tokens, size)),
            f"{scores:,} (+ {scores * shifts:,})",
            f"{circuits} (+ {circuits * shifts:,})",
            f"{scores / circuits:,.0f}",
            f"{per_score * scores / 60:,.0f} min, extrapolated from {BRUTE_FORCE} scores",
            ">= 5,000" if tokens > 64 else "",
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=200, help="number of rounds (for the larger shape a quarter of it). Default: 200"
    )
    parser.add_argument("--eager", action="store_true", help="leave out the kernel that needs a C++ compiler")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=130)
    kernels: tuple[Kernel, ...] = ("fused",) if arguments.eager else ("fused", "compiled")
    goals = {"fused": "<= 4.5 explicit", "compiled": "<= 2.5 explicit"}
    for shape, rounds in zip(SHAPES, (arguments.rounds, max(arguments.rounds // 4, 10)), strict=True):
        bases = "explicit", "scaled_dot_product_attention"
        title = f"Attention of q, k, v (batch, heads, tokens, numbers per head) = {shape}, forward and backward"
        goal = {f"series, {kernel}": goals[kernel] for kernel in kernels}
        console.print(table(title, functions(shape, kernels), rounds, bases, goal))
        for dropout in (0.0, 0.1):
            title = f"Module with projections and circuits, {shape}, dropout {dropout}, forward and backward"
            goal = {f"QuantumAttention, {kernel}": goals[kernel] for kernel in kernels}
            console.print(table(title, blocks(shape, kernels, dropout), rounds, ("explicit", "Attention"), goal))
    goal = {f"quantum, {kernel}": "<= 1.5 classical" for kernel in kernels}
    title = "Whole training step of configs/seqcls_quantum_attention.yaml"
    console.print(table(title, training_steps(kernels), arguments.rounds, ("classical",), goal))
    console.print(brute_force())
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "qiskit", "qiskit-machine-learning"))
    console.print(f"{arguments.rounds} rounds; {packages}; Python {platform.python_version()}; {platform.machine()}")


if __name__ == "__main__":
    main()
