"""AttentionMonitor: what quantum attention does, in the loggers and at test.

Paper: arXiv 2511.01918, Eq. 3 to 5. Shapes: B batch, C classes, Q quantum heads, J frequencies.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning_utilities.core.rank_zero import rank_zero_warn
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_qsgd.callbacks.figures import curve_figure, pixels, score_window, spectrum_figure
from lightning_qsgd.callbacks.parts import tensorboard_writers
from lightning_qsgd.distributed import on_all_ranks
from lightning_qsgd.models import QuantumAttention

_POINTS = 801  # of a curve


class AttentionMonitor(L.Callback):
    """Log what each :class:`QuantumAttention` layer does, as ``attention/...``.

    A model without such a layer is left alone.

    **Training.** Every ``every_n_steps`` optimizer steps the callback logs, for each layer, means over its quantum
    heads: the numbers of :func:`lightning_qsgd.models.attention_statistics.attention_statistics` on the first batch of
    the step (phi_spread, score_spread, entropy, entropy_without, moved), phi_share = phi_spread / score_spread, and
    gain and scale after the step. TensorBoard also gets a histogram of the circuits' angles, wrapped to [-pi, pi).

    **Figures.** TensorBoard gets ``attention/spectrum``, the amplitudes of gain * Phi by head and frequency, and
    ``attention/curve``, gain * Phi over the scores. They are drawn before the first step, from the exact initial
    circuits, and at each validation except the sanity check, from the series that validation used. No circuit runs for
    them.

    **Test.** If circuits run on a sampler, the callback logs ``test/series_error``, the distance of the measured series
    from the exact one, and ``test/phi_spread``, the standard deviation of the exact one; both are root mean squares
    over layers and heads, of Phi without its gain. It also logs ``test/accuracy_simulated``, the accuracy with exact
    circuits, and prints a table with circuits and shots. Series, circuits and shots are those of rank 0. No circuit
    runs for any of this. The accuracy requires batches that are dicts with "labels" (B,), a ``test_step`` that returns
    logits (B, C), and a ``forward`` that computes them from the batch. It is omitted if another layer runs on a
    sampler.

    Layers are named by their path in the model, such as ``blocks.0``. A layer with a fixed gain of 0 has no Phi and is
    skipped, and so are models that are sharded over processes (FSDP, ModelParallelStrategy).

    Args:
        every_n_steps: optimizer steps between two records, at least 1. With 0 nothing is logged or drawn while
            training. Default: 200.

    Raises:
        ValueError: for a negative every_n_steps.
    """

    def __init__(self, every_n_steps: int = 200) -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        self.every_n_steps = every_n_steps
        self._watching: dict[str, QuantumAttention] = {}
        self._step = -1  # the last one that was watched
        self._occurring: dict[str, tuple[float, float]] = {}
        self._tested: SampledAttention | None = None

    # ---- training

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the initial circuits of a new run."""
        self._step, self._occurring = -1, {}
        if not trainer.global_step:
            with simulated(quantum_layers(trainer, pl_module).values()):
                self._draw(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Watch the first batch of every n-th optimizer step."""
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == self._step:
            return
        if trainer.is_global_zero and trainer.loggers:
            self._step, self._watching = step, quantum_layers(trainer, pl_module)
            for layer in self._watching.values():
                layer.watch = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the watched batch."""
        if not self._watching:
            return
        metrics: dict[str, float] = {}
        for name, layer in self._watching.items():
            if layer.statistics is not None:
                numbers = dict(layer.statistics)
                low, high = numbers.pop("score_range").tolist()
                if math.isfinite(high - low):
                    self._occurring[name] = low, high
                numbers["phi_share"] = numbers["phi_spread"] / numbers["score_spread"]
                numbers |= {"gain": layer.gain.detach(), "scale": layer.scale.detach()}
                metrics |= {f"attention/{key}/{name}": value.float().mean().item() for key, value in numbers.items()}
            if layer.series.source == "circuit":
                angles = torch.remainder(layer.series.weights.detach().float() + math.pi, 2 * math.pi) - math.pi
                for writer in tensorboard_writers(trainer.loggers) if angles.isfinite().all() else []:
                    writer.add_histogram(f"attention/angles/{name}", angles, self._step)
        self._stop_watching()
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics(metrics, step=self._step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop watching if the module skipped the rest of its epoch."""
        self._stop_watching()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop watching before validation."""
        self._stop_watching()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._stop_watching()
        self._tested = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw once per validation, while averaged weights are in use and the series is known."""
        if not (batch_idx or dataloader_idx or trainer.sanity_checking):
            self._draw(trainer, pl_module)

    def _stop_watching(self) -> None:
        for layer in self._watching.values():
            layer.watch, layer.statistics = False, None
        self._watching = {}

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        writers = tensorboard_writers(trainer.loggers) if self.every_n_steps and trainer.is_global_zero else []
        for name, layer in quantum_layers(trainer, module).items() if writers else []:
            series, scale = layer.shift_series()
            if not (series.isfinite().all() and scale.isfinite().all()):
                continue  # the run has diverged, as its loss shows
            coefficients = series.unflatten(1, (-1, 2))  # (Q, J, 2)
            frequencies = [layer.series.angle_factor * (j + 1) for j in range(coefficients.shape[1])]
            occurring = self._occurring.get(name)
            window = score_window(occurring, fastest=scale.abs().max().item())
            scores = torch.linspace(*window, _POINTS, device=layer.gain.device)
            pictures = {
                "spectrum": spectrum_figure(_numpy(coefficients.norm(dim=2)), frequencies, layer.heads),
                "curve": curve_figure(_numpy(scores), _numpy(layer.phi(scores)), layer.heads, occurring),
            }
            for kind, figure in pictures.items():
                image = pixels(figure)
                for writer in writers:
                    writer.add_image(f"attention/{kind}/{name}", image, trainer.global_step, dataformats="HWC")

    # ---- test

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the layers that run on a sampler."""
        tested = SampledAttention(quantum_layers(trainer, pl_module), pl_module)
        self._tested = tested if tested.layers else None

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluate the batch with exact circuits."""
        if self._tested is None:
            return
        self._tested.batches += 1
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and isinstance(batch, dict) and "labels" in batch:
            with trainer.precision_plugin.forward_context():
                self._tested.compare(pl_module, batch, outputs)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how far both differ."""
        if self._tested is not None and self._tested.batches:
            for name, value in self._tested.finish().items():
                pl_module.log(f"test/{name}", value, sync_dist=True)  # the same on all ranks

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the table below Lightning's own."""
        if self._tested is not None and self._tested.table is not None and trainer.is_global_zero:
            Console().print(self._tested.table)
        self._tested = None


class SampledAttention:
    """Compare, over one test, a model whose attention runs on a sampler with the same model on exact circuits.

    Args:
        layers: quantum attention layers by name; those that run on no sampler are dropped.
        module: the whole model.

    Attributes:
        layers: the layers that run on a sampler.
        batches: number of batches so far; the caller counts them.
        table: the table to print; None before :meth:`finish`.
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
        """Add a batch: its logits (B, C), and those of the same model on exact circuits."""
        if not self._alone:
            return
        try:
            with simulated(self.layers.values()):
                exact = module(batch)
            if not isinstance(exact, Tensor) or exact.shape != logits.shape:
                raise TypeError("its output is not that of test_step")
        except Exception as error:  # whatever another signature makes of a batch
            self._failure = f"{type(module).__name__}.forward(batch) failed: {error}"
            self._alone = False
            return
        for name, answer in (("sampler", logits), ("simulated", exact)):
            if name not in self._accuracy:
                self._accuracy[name] = MulticlassAccuracy(logits.shape[1], average="micro").to(logits.device)
            self._accuracy[name].update(answer, batch["labels"])

    def finish(self) -> dict[str, float]:
        """Metrics to log. Call it on all ranks; the accuracy is omitted if the comparison failed on any of them."""
        failures = [failure for failure in on_all_ranks(self._failure) if failure]
        if failures:
            rank_zero_warn(f"No test/accuracy_simulated: {failures[0]}")
        if failures or not all(on_all_ranks(bool(self._accuracy))):
            self._accuracy = {}  # computing one is a collective call
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
    """Each :class:`QuantumAttention` that has a Phi, by its path in the model; empty for sharded models."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return {}
    found = {path: part for path, part in module.named_modules() if isinstance(part, QuantumAttention)}
    return {_short(path): part for path, part in found.items() if not part.classical}


@contextmanager
def simulated(layers: Iterable[QuantumAttention]) -> Iterator[None]:
    """Use exact circuits within the block."""
    before = [(layer.series, layer.series.exact) for layer in layers]
    try:
        for series, _ in before:
            series.exact = True
        yield
    finally:
        for series, exact in before:
            series.exact = exact


def _sampler(module: nn.Module) -> str:
    """Class name of the sampler that runs a module's circuits; "" if there is none."""
    sampler = getattr(getattr(module, "engine", None), "sampler", None)
    return "" if sampler is None or getattr(module, "exact", False) else type(sampler).__name__


def _short(path: str) -> str:
    return re.sub(r"^((model|module)\.)+", "", path.replace("_orig_mod.", "")).removesuffix(".attention")


def _rms(values: Iterable[Tensor]) -> float:
    return torch.cat([*values]).square().mean().sqrt().item()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
