"""Measure the optimizer's step against torch.optim.AdamW's with the same kernel: part of `make bench`.

Each round takes two steps of every arm, in random order, on fixed gradients, and times the second one. The first one
restores the cache after the arm before. A ratio is the median over rounds of arm / AdamW within the round, with a 95 %
bootstrap interval.
"""

import argparse
import gc
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmark import Ratio, ratio
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lightning_qsgd.models import TransformerClassifier
from lightning_qsgd.optim import CircuitPerturbation, SinePerturbation, SuperpositionalGradientDescent

Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


def transformer_shapes(dim: int, layers: int, vocabulary: int) -> list[tuple[int, ...]]:
    """The shapes of a GPT-2's parameters: 12 tensors per layer, and 4 more."""
    block = [(dim,), (dim,), (3 * dim, dim), (3 * dim,), (dim, dim), (dim,)]
    block += [(dim,), (dim,), (4 * dim, dim), (4 * dim,), (dim, 4 * dim), (dim,)]
    return [(vocabulary, dim), (1024, dim), *block * layers, (dim,), (dim,)]


def model_shapes() -> list[tuple[int, ...]]:
    model = TransformerClassifier(vocab_size=64, num_classes=4, max_length=32)
    return [tuple(p.shape) for p in model.parameters()]


def arms(kernel: str) -> dict[str, Make]:
    flag = {kernel: True}

    def ours(perturbation: Callable[[], SinePerturbation | CircuitPerturbation], **options: str) -> Make:
        def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
            circuit = perturbation()
            circuit.prepare()
            return SuperpositionalGradientDescent(params, perturbation=circuit, **flag, **options)  # type: ignore[arg-type]

        return make

    return {
        "AdamW": lambda params: torch.optim.AdamW(params, weight_decay=0.0, **flag),  # type: ignore[arg-type]
        "first_of_tensor, sine": ours(SinePerturbation),
        "first_of_tensor, circuit": ours(CircuitPerturbation),
        "all, sine": ours(SinePerturbation, scope="all"),
        "all, sine, scale adam": ours(SinePerturbation, scope="all", scale="adam"),
    }


def measure(
    shapes: list[tuple[int, ...]], makers: dict[str, Make], rounds: int, warmup: int = 3
) -> dict[str, NDArray[np.float64]]:
    """Measure the seconds of each arm's step in each round. All arms use the same tensors, and so the same memory."""
    generator = torch.Generator().manual_seed(0)
    params = [(0.05 * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
    optimizers = {name: make(params) for name, make in makers.items()}
    order = np.random.default_rng(0)
    seconds = {name: np.zeros(rounds) for name in optimizers}
    for i in range(-warmup, rounds):
        for name in order.permutation(list(optimizers)):
            optimizers[name].step()
            start = time.perf_counter()
            optimizers[name].step()
            if i >= 0:
                seconds[name][i] = time.perf_counter() - start
    del optimizers
    gc.collect()
    return seconds


GOALS = {
    ("79k", "foreach", "first_of_tensor, sine"): 1.5,
    ("10M", "foreach", "first_of_tensor, sine"): 1.10,
    ("124M", "foreach", "first_of_tensor, sine"): 1.05,
    ("10M", "foreach", "all, sine"): 2.0,
    ("124M", "foreach", "all, sine"): 2.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=400, help="number of rounds at 79k; a tenth of it at 10M, and a 25th at 124M"
    )
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = Table(title="Optimizer step against torch.optim.AdamW's, same kernel, one thread", title_justify="left")
    for column in ("parameters", "kernel", "optimizer", "median ms", "ratio [95 %]", "goal"):
        table.add_column(column)
    sizes = {
        "79k": (model_shapes(), rounds),
        "10M": (transformer_shapes(240, 12, 6000), max(rounds // 10, 5)),
        "124M": (transformer_shapes(512, 24, 94_000), max(rounds // 25, 5)),
    }
    for size, (shapes, count) in sizes.items():
        for kernel in ("foreach", "fused"):
            makers = arms(kernel)
            if size == "124M":  # moments of all arms at once would take 5 GB
                makers.pop("all, sine, scale adam")
                makers.pop("first_of_tensor, circuit")
            seconds = measure(shapes, makers, count)
            for name, values in seconds.items():
                quotient: Ratio | str = "1" if name == "AdamW" else ratio(values, seconds["AdamW"])
                goal = GOALS.get((size, kernel, name))
                numbers = f"{len(shapes)} / {sum(np.prod(s) for s in shapes) / 1e6:.3g}M" if name == "AdamW" else ""
                row = (numbers, kernel if name == "AdamW" else "", name, f"{np.median(values) * 1e3:.2f}")
                table.add_row(*row, str(quotient), f"<= {goal}" if goal else "")
            table.add_section()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
