"""PerturbationMonitor: what the quantum part does, in the loggers."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from torch import Tensor

from lightning_qsgd.callbacks.circuit_watch import CircuitWatch
from lightning_qsgd.callbacks.parts import superpositional, tensorboard_writers
from lightning_qsgd.optim import LiveCircuitPerturbation, SuperpositionalGradientDescent

_MARGINS = {"s_low": 0.05, "s_high": 0.95}
_SORTED = 2**14  # values of s, for its margins
_FOLD = 80  # letters of a line of the circuit's drawing, which a card of TensorBoard can show


class PerturbationMonitor(L.Callback):
    """Logs the perturbation's statistics every n steps as ``quantum/...``; does nothing with other optimizers.

    Scalars: those of ``optim/statistics.py`` (norm_ratio, norm_ratio_touched, offset, spread, learning_rate_factor,
    cosine, touched, effective, quantum_weight), s_low and s_high, the 5th and 95th percentile of s, and circuits, shots
    and seconds so far; in TensorBoard the histograms of s and of the angles. With a displacement
    its radius. Once live circuits have failed, fallback_steps: how many steps their series has answered.

    Of a :class:`CircuitPerturbation`, as ``circuit/...``: error and total_variation, the distance of what answers (live
    circuits or the series) from the exact circuit at the step's first 32 blocks, and for live circuits error_expected
    and total_variation_expected, what shots alone make of it. In TensorBoard the outcomes of the first block beside the
    exact ones: of live circuits in each record, of a series once. No circuit runs for any of it.

    Once, at the start: the drawing of the circuit (TensorBoard, text and image), and surrogate_residual, the root mean
    square distance of the surrogate's outcome probabilities from fresh circuits at 32 random points, beside
    surrogate_residual_expected, what shot noise alone makes of it, and surrogate_clipped_mass, the negative probability
    of the series; with a calibration the results of its tests, calibration_.... A residual that shots do not explain is
    warned of.

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: never. Default: 50. A record costs a few
            per cent of a training step (`make bench`), and steps between cost nothing.
        per: also log norm_ratio, offset, spread and cosine of each part that is touched: "group" (``quantum/offset/0``:
            the number of the parameter group) or "layer" (``quantum/offset/model.head``: the module that owns the
            parameters). Default: "model", none.

    Raises:
        ValueError: for a negative every_n_steps or an unknown ``per``.
    """

    def __init__(self, every_n_steps: int = 50, per: Literal["model", "group", "layer"] = "model") -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        if per not in ("model", "group", "layer"):
            raise ValueError(f"Invalid per: {per!r}; it must be one of model, group, layer")
        self.every_n_steps, self.per = every_n_steps, per
        self._watch: CircuitWatch | None = None
        self._picture: Any = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is known once: the circuit and its surrogate's residual."""
        optimizer = self._optimizer(trainer)
        if optimizer is None or trainer.global_step or not trainer.is_global_zero or not trainer.loggers:
            return
        watch = self._watching(optimizer)
        watch.start(reporting=True)
        before = optimizer.perturbation.circuits
        report = optimizer.perturbation.report()
        watch.stop()
        if "surrogate_residual" in report:
            pl_module.print(
                f"Series checked at random points: {optimizer.perturbation.circuits - before} circuits, residual "
                f"{report['surrogate_residual']:.2g}; shot noise alone makes "
                f"{report['surrogate_residual_expected']:.2g}"
            )
        for name, text in report.items():
            if isinstance(text, str):
                for writer in tensorboard_writers(trainer.loggers):
                    writer.add_text(f"quantum/{name}", "\n".join(f"    {line}" for line in text.splitlines()))
        self._draw(watch, trainer.loggers, step=0, drawing=True)
        numbers: dict[str, float] = {
            f"quantum/{name}": value for name, value in report.items() if not isinstance(value, str)
        }
        for logger in trainer.loggers if numbers else []:
            logger.log_metrics(numbers, step=0)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Ask for statistics in every n-th step."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.loggers:
            monitored = self._optimizer(trainer)
            if monitored is not None:
                monitored.record_statistics = True
                if trainer.is_global_zero:
                    self._watching(monitored).start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the statistics, where they were asked for."""
        optimizer = self._optimizer(trainer)
        if optimizer is None or not optimizer.record_statistics:
            return
        optimizer.record_statistics = False
        if trainer.is_global_zero:
            watch = self._watching(optimizer)
            watch.stop()
            step = trainer.global_step - 1
            record(optimizer, trainer.loggers, step, self._parts(optimizer, pl_module), watch)
            if isinstance(watch.circuit, LiveCircuitPerturbation):
                self._draw(watch, trainer.loggers, step)
        optimizer.statistics = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the perturbation as it was."""
        if self._watch is not None:
            self._watch.stop()

    def _watching(self, optimizer: SuperpositionalGradientDescent) -> CircuitWatch:
        if self._watch is None or self._watch.perturbation is not optimizer.perturbation:
            self._watch = CircuitWatch(optimizer.perturbation)
        return self._watch

    def _draw(self, watch: CircuitWatch, loggers: list[Logger], step: int, *, drawing: bool = False) -> None:
        """The outcomes of the first block beside the exact ones; with ``drawing`` the circuit too."""
        writers, circuit = tensorboard_writers(loggers), watch.circuit
        if not writers or circuit is None:
            return
        from lightning_qsgd.callbacks.circuit_figures import OutcomePicture, drawing_image

        pictures = {}
        if drawing:
            pictures["circuit/drawing"] = drawing_image(str(circuit.ansatz.circuit.draw("text", fold=_FOLD)))
        outcomes = watch.outcomes()
        if outcomes is not None and outcomes.found:
            names = tuple(outcomes.found)
            if self._picture is None or self._picture.names != names:
                self._picture = OutcomePicture(circuit.num_qubits, names)
            shown = {"exact": outcomes.exact} | outcomes.found
            pictures["circuit/outcomes"] = self._picture.draw({name: p[0].numpy() for name, p in shown.items()})
        for writer in writers:
            for name, image in pictures.items():
                writer.add_image(name, image, step, dataformats="HWC")

    def _parts(self, optimizer: SuperpositionalGradientDescent, module: L.LightningModule) -> dict[str, list[Tensor]]:
        if self.per == "group":
            return {str(k): group["params"] for k, group in enumerate(optimizer.param_groups)}
        if self.per == "layer":
            trained = {p for group in optimizer.param_groups for p in group["params"]}
            own = ((name, [*part.parameters(recurse=False)]) for name, part in module.named_modules())
            return {name: [p for p in params if p in trained] for name, params in own}
        return {}

    def _optimizer(self, trainer: L.Trainer) -> SuperpositionalGradientDescent | None:
        return superpositional(trainer.optimizers) if self.every_n_steps else None


def record(
    optimizer: SuperpositionalGradientDescent,
    loggers: list[Logger],
    step: int,
    parts: Mapping[str, list[Tensor]] | None = None,
    watch: CircuitWatch | None = None,
) -> None:
    """Log the statistics of the optimizer's last recorded step as those of optimizer step ``step``.

    Args:
        optimizer: whose statistics; where nothing was perturbed it has none.
        loggers: where they go.
        step: number of the optimizer step, from 0.
        parts: parameters by name, whose own statistics are logged too.
        watch: what listened to the perturbation in that step.
    """
    metrics: dict[str, float] = {}
    if optimizer.displacement is not None:
        metrics["quantum/radius"] = optimizer.displacement.last_radius
    statistics = dict(optimizer.statistics or {})
    s = statistics.pop("s", None)
    if s is not None:
        numbers = {name: value.item() for name, value in statistics.items()}
        if len(s):
            some = s[:: -(-len(s) // _SORTED)]
            numbers |= {name: some.quantile(share).item() for name, share in _MARGINS.items()}
        counts = ("circuits", "shots", "seconds") + ("fallback_steps",) * (optimizer.perturbation.fallback_steps > 0)
        numbers |= {name: getattr(optimizer.perturbation, name) for name in counts}
        for part, params in (parts or {}).items():
            own = optimizer.statistics_of(params)
            if own["touched"] > 0:
                numbers |= {f"{name}/{part}": own[name].item() for name in ("norm_ratio", "offset", "spread", "cosine")}
        metrics |= {f"quantum/{name}": value for name, value in numbers.items()}
        histograms = {"s": s}
        if watch is not None:
            metrics |= {f"circuit/{name}": value for name, value in watch.distances().items()}
            histograms["angles"] = watch.angles
        for name, values in histograms.items():
            for writer in tensorboard_writers(loggers) if len(values) else []:
                writer.add_histogram(f"quantum/{name}", values, step)
    for logger in loggers if metrics else []:
        logger.log_metrics(metrics, step=step)
