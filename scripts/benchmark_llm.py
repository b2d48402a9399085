"""Measure a training step of a pretrained language model with our optimizer against AdamW: part of `make bench` if the
environment variable LIGHTNING_QSGD_LLM names the folder of a model.

Each round takes two whole steps (forward, backward, clip, optimizer) of every arm, in random order, on a batch of one
text. It times the second step, and the optimizer's share of it. All arms train the same weights. A ratio is the median
over rounds of arm / AdamW within the round, with a 95 % bootstrap interval. With --peak ARM, one arm takes three steps,
and the script prints the peak memory of the process instead.
"""

import argparse
import os
import time
from contextlib import nullcontext

import numpy as np
import torch
from benchmark import ratio
from rich.console import Console
from rich.table import Table

from lightning_qsgd.callbacks.run_summary import peak_memory
from lightning_qsgd.optim import CircuitPerturbation, SinePerturbation, SuperpositionalGradientDescent
from lightning_qsgd.tasks import CausalLanguageModeling

NUMBERS = {"lr": 2e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
GOAL = 1.02


def make(arm: str, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if arm == "AdamW":
        return torch.optim.AdamW(params, **NUMBERS)  # type: ignore[arg-type]
    perturbation = SinePerturbation() if "sine" in arm else CircuitPerturbation()
    perturbation.prepare()
    return SuperpositionalGradientDescent(params, **NUMBERS, perturbation=perturbation)  # type: ignore[arg-type]


def step(
    module: CausalLanguageModeling, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], mixed: bool
) -> tuple[float, float]:
    """Measure the seconds of a step, and of the optimizer in it."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
        loss = module.token_losses(batch).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    before = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    optimizer.zero_grad()
    return end - start, end - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("LIGHTNING_QSGD_LLM"), help="folder of the model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--tokens", type=int, default=185, help="number of tokens in the text. Default: 185, the mean of GSM8K"
    )
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--peak", help="name of an arm: print its peak memory")
    options = parser.parse_args()
    if not options.model:
        print("benchmark_llm.py: skipped; set LIGHTNING_QSGD_LLM to the folder of a pretrained causal language model")
        return
    torch.set_num_threads(1)
    dtype = "bfloat16" if options.precision == "bf16-true" else "float32"
    module = CausalLanguageModeling(options.model, dtype, options.gradient_checkpointing)
    module.configure_model()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(100, 10_000, (1, options.tokens), generator=generator)
    batch = {"tokens": tokens, "padding_mask": torch.zeros_like(tokens, dtype=torch.bool)}
    mixed = options.precision == "bf16-mixed"
    params = list(module.parameters())
    if options.peak:
        optimizer = make(options.peak, params)
        for _ in range(3):
            step(module, optimizer, batch, mixed)
        print(f"{options.peak}, {options.precision}, {options.tokens} tokens: peak {peak_memory():.2f} GB")
        return
    arms = {arm: make(arm, params) for arm in ("AdamW", "first_of_tensor, sine", "first_of_tensor, circuit")}
    seconds = {arm: np.zeros((options.rounds, 2)) for arm in arms}
    order = np.random.default_rng(0)
    for i in range(-2, options.rounds):
        for arm in order.permutation(list(arms)):
            step(module, arms[arm], batch, mixed)
            taken = step(module, arms[arm], batch, mixed)
            if i >= 0:
                seconds[arm][i] = taken
    size = f"{sum(p.numel() for p in params) / 1e6:.0f}M parameters"
    title = (
        f"Training step of {size} in {len(params)} tensors, {options.tokens} tokens, {options.precision}, one thread"
    )
    table = Table(title=title, title_justify="left")
    for column in ("optimizer", "step s", "ratio [95 %]", "goal", "optimizer's part s", "ratio [95 %]"):
        table.add_column(column)
    for arm, values in seconds.items():
        whole, part = values.T
        ratios = ["1", "1"]
        if arm != "AdamW":
            ratios = [str(ratio(values[:, k], seconds["AdamW"][:, k])) for k in (0, 1)]
        goal = "" if arm == "AdamW" else f"<= {GOAL}"
        table.add_row(arm, f"{np.median(whole):.3f}", ratios[0], goal, f"{np.median(part):.4f}", ratios[1])
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
