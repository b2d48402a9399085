"""Quantum attention on a sampler beside the same attention with exact circuits. Shapes: B batch, C classes."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning_utilities.core.rank_zero import rank_zero_warn
from rich.table import Column, Table
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.models import QuantumAttention


class SampledAttention:
    """Compares, over one test, a model whose attention runs on a sampler with the same model and exact circuits.

    Args:
        layers: layers by name; of these, the ones on a sampler.
        module: the whole model.

    Attributes:
        layers: the layers on a sampler.
        batches: seen so far, to be counted by the caller.
        table: what is printed; None until :meth:`finish`.
    """

    def __init__(self, layers: dict[str, QuantumAttention], module: L.LightningModule) -> None:
        self.layers = {name: layer for name, layer in layers.items() if _sampler(layer.series)}
        self.batches = 0
        self.table: Table | None = None
        self._before = {name: (layer.series.circuits, layer.series.shots) for name, layer in self.layers.items()}
        own = [layer.series for layer in self.layers.values()]
        self._alone = not any(_sampler(part) and all(part is not series for series in own) for part in module.modules())
        self._accuracy: dict[str, MulticlassAccuracy] = {}
        self._failure = ""

    def compare(self, module: L.LightningModule, batch: dict[str, Any], logits: Tensor) -> None:
        """Count a batch's logits (B, C), and those of the same model with exact circuits."""
        if not self._alone:
            return
        try:
            with simulated(self.layers.values()):
                exact = module(batch)
            if not isinstance(exact, Tensor) or exact.shape != logits.shape:
                raise TypeError("it returned something else than test_step")
        except Exception as error:  # whatever another signature makes of a batch
            self._failure = f"{type(module).__name__}.forward(batch) failed: {error}"
            self._alone = False
            return
        for name, answer in (("sampler", logits), ("simulated", exact)):
            if name not in self._accuracy:
                self._accuracy[name] = MulticlassAccuracy(logits.shape[1], average="micro").to(logits.device)
            self._accuracy[name].update(answer, batch["labels"])

    def finish(self) -> dict[str, float]:
        """What is logged; to be called on all ranks. The accuracies are left out if any rank failed to compare."""
        failures = [failure for failure in on_all_ranks(self._failure) if failure]
        if failures:
            rank_zero_warn(f"No test/accuracy_simulated: {failures[0]}")
        if failures or not all(on_all_ranks(bool(self._accuracy))):
            self._accuracy = {}  # computing one asks all ranks
        accuracy = {name: metric.compute().item() for name, metric in self._accuracy.items()}
        errors = {name: layer.series.error() for name, layer in self.layers.items()}
        with simulated(self.layers.values()):
            spreads = {name: layer.series.spread() for name, layer in self.layers.items()}
        rows: list[tuple[float, ...]] = []
        for name, layer in self.layers.items():
            series, (circuits, shots) = layer.series, self._before[name]
            gradient = series.circuits_per_gradient if series.weights.requires_grad else 0
            each = round(series.shots / max(series.circuits, 1))
            run = (series.circuits - circuits, series.shots - shots)
            rows.append((_rms([errors[name]]), _rms([spreads[name]]), *run, gradient, gradient * each))
        series_error, phi_spread = _rms(errors.values()), _rms(spreads.values())
        total = (series_error, phi_spread, *(sum(row[k] for row in rows) for k in range(2, 6)))
        self.table = self._table({**dict(zip(self.layers, rows, strict=True)), "all": total}, accuracy)
        logged = {"series_error": series_error, "phi_spread": phi_spread}
        return logged | ({"accuracy_simulated": accuracy["simulated"]} if accuracy else {})

    def _table(self, rows: dict[str, tuple[float, ...]], accuracy: dict[str, float]) -> Table:
        title = f"Quantum attention on {', '.join(sorted({_sampler(layer.series) for layer in self.layers.values()}))}"
        if accuracy:
            title += f": accuracy {accuracy['sampler']:.4f}, simulated {accuracy['simulated']:.4f}"
        names = ("error of Phi", "spread of Phi", "circuits", "shots", "further circuits", "further shots")
        columns = [Column(name, justify="right") for name in names]
        caption = "Phi without gain; further: for the gradient in one training step"
        table = Table("layer", *columns, title=title, title_justify="left", caption=caption, caption_justify="left")
        for name, row in rows.items():
            table.add_row(name, *(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
        return table


def quantum_layers(trainer: L.Trainer, module: L.LightningModule) -> dict[str, QuantumAttention]:
    """Each :class:`QuantumAttention` that has a Phi, by its place in the model; none where models are split."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return {}
    found = {path: part for path, part in module.named_modules() if isinstance(part, QuantumAttention)}
    return {_short(path): part for path, part in found.items() if not part.classical}


@contextmanager
def simulated(layers: Iterable[QuantumAttention]) -> Iterator[None]:
    """Exact circuits in the block, wherever they run else."""
    before = [(layer.series, layer.series.exact) for layer in layers]
    try:
        for series, _ in before:
            series.exact = True
        yield
    finally:
        for series, exact in before:
            series.exact = exact


def _sampler(module: nn.Module) -> str:
    """Name of the sampler that a module's circuits run on; "" without one."""
    sampler = getattr(getattr(module, "engine", None), "sampler", None)
    return "" if sampler is None or getattr(module, "exact", False) else type(sampler).__name__


def _short(path: str) -> str:
    return re.sub(r"^((model|module)\.)+", "", path.replace("_orig_mod.", "")).removesuffix(".attention")


def _rms(values: Iterable[Tensor]) -> float:
    return torch.cat([*values]).square().mean().sqrt().item()
