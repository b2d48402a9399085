"""AttentionMonitor: what quantum attention does, in the loggers and at test.

Paper: arXiv 2511.01918, Eq. 3 to 5. Shapes: B batch, C classes, Q quantum heads, J frequencies.
"""

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lightning_qsgd.callbacks.attention_figures import curve_figure, pixels, score_window, spectrum_figure
from lightning_qsgd.callbacks.parts import tensorboard_writers
from lightning_qsgd.callbacks.sampled_attention import SampledAttention, quantum_layers, simulated
from lightning_qsgd.models import QuantumAttention

_POINTS = 801  # of a curve


class AttentionMonitor(L.Callback):
    """Logs what each :class:`QuantumAttention` does as ``attention/...``; does nothing in models without one.

    While training, every n optimizer steps, for each layer, means over its quantum heads: those of
    :func:`lightning_qsgd.models.attention_statistics.attention_statistics` on the step's first batch (phi_spread,
    score_spread, entropy, entropy_without, moved), phi_share = phi_spread / score_spread, and gain and scale after the
    step; in TensorBoard also the histogram of the circuits' angles, wrapped to [-pi, pi).

    In TensorBoard, before the first step (exact initial circuits) and at each validation but the sanity check (as
    validated, so that pictures run no circuits): ``attention/spectrum``, amplitudes of gain * Phi by head and
    frequency, and ``attention/curve``, gain * Phi over the scores.

    At test, where circuits run on a sampler: ``test/series_error`` and ``test/phi_spread``, root mean squares over
    layers and heads of the measured series' distance from the exact one and of the exact one's standard deviation, both
    of Phi alone, without gain; ``test/accuracy_simulated``, the accuracy with exact circuits; and a table of them, with
    circuits and shots. Series, circuits and shots are those of rank 0. Nothing of this runs a circuit. The accuracy
    takes batches that are dicts with "labels" (B,), a ``test_step`` that returns logits (B, C) and a ``forward`` that
    gives them from the batch; it is left out where another layer runs on a sampler too.

    Layers are named by their place in the model, such as ``blocks.0``. A layer with a fixed gain of 0 has no Phi and is
    left out. Models that are split over processes (FSDP, ModelParallelStrategy) are not looked at.

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: neither records nor pictures. Default: 200.

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
        """Draw the initial circuits, unless the run is resumed."""
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
        """Log what was watched."""
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
        """Stop watching, where the module skipped the batch with the rest of its epoch."""
        self._stop_watching()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch no validation batch."""
        self._stop_watching()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the layers as they were."""
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
        """Draw once per validation, while averaged weights are in their place and the series is still known."""
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
                continue  # a run that diverged: the loss says so
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
        """Ask the same of exact circuits."""
        if self._tested is None:
            return
        self._tested.batches += 1
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and isinstance(batch, dict) and "labels" in batch:
            with trainer.precision_plugin.forward_context():
                self._tested.compare(pl_module, batch, outputs)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the distance between both."""
        if self._tested is not None and self._tested.batches:
            for name, value in self._tested.finish().items():
                pl_module.log(f"test/{name}", value, sync_dist=True)  # the same on all ranks

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print the table, below Lightning's own."""
        if self._tested is not None and self._tested.table is not None and trainer.is_global_zero:
            Console().print(self._tested.table)
        self._tested = None


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
