"""PerturbationMonitor: what the quantum part does, in the loggers."""

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from torch import Tensor

from lightning_qsgd.callbacks.circuit_watch import CircuitWatch
from lightning_qsgd.callbacks.figures import drawing_image, outcome_picture
from lightning_qsgd.callbacks.parts import superpositional, tensorboard_writers
from lightning_qsgd.optim import LiveCircuitPerturbation, SuperpositionalGradientDescent
from lightning_qsgd.optim.statistics import STATISTICS

_MARGINS = {"s_low": 0.05, "s_high": 0.95}
_SORTED = 2**14  # values of s that the percentiles are computed from
_FOLD = 80  # width of the circuit's drawing in characters, so that it fits a card of TensorBoard


class PerturbationMonitor(L.Callback):
    """Log statistics of the perturbation every n steps. Other optimizers are left alone.

    **In each record**, as ``quantum/...``: the optimizer's statistics, which docs/tensorboard.md defines; s_low and
    s_high, the 5th and 95th percentile of s; circuits, shots and seconds so far; the radius of a displacement; and once
    live circuits have failed, fallback_steps, the number of steps in which their series replaced them. TensorBoard also
    gets histograms of s and of the angles.

    For a :class:`CircuitPerturbation`, as ``circuit/...``: error and total_variation, the distance of live circuits, or
    of the series, from the exact circuit at the first 32 blocks of the step. For live circuits also error_expected and
    total_variation_expected, the distance that shots alone cause. TensorBoard gets the outcomes of the first block next
    to the exact ones, for live circuits in each record and for a series once. No circuit runs for any of this.

    **Once, at the start**: the drawing of the circuit (TensorBoard, as text and image); surrogate_residual, the root
    mean square distance of the series' outcome probabilities from fresh circuits at 32 random points;
    surrogate_residual_expected, the distance that shot noise alone causes; and surrogate_clipped_mass, the mean
    negative probability of the series. With a calibration no circuit runs; the results of its tests are logged as
    calibration_.... A residual that shots do not explain raises a warning.

    Args:
        every_n_steps: optimizer steps between two records, at least 1; 0: no records. A record takes a few per cent of
            a training step; the steps between take no extra time. Default: 50.
        per: "group" or "layer" logs norm_ratio, offset, spread and cosine for each touched part too, as
            ``quantum/offset/0`` (number of the parameter group) or ``quantum/offset/model.head`` (the module that owns
            the parameters). Default: "model", no parts.

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

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the circuit and the residual of its series."""
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
        """Request statistics in every n-th step."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.loggers:
            monitored = self._optimizer(trainer)
            if monitored is not None:
                monitored.record_statistics = True
                if trainer.is_global_zero:
                    self._watching(monitored).start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the statistics, if they were requested."""
        optimizer = self._optimizer(trainer)
        if optimizer is None or not optimizer.record_statistics:
            return
        optimizer.record_statistics = False
        if trainer.is_global_zero:
            watch = self._watching(optimizer)
            watch.stop()
            step = trainer.global_step - 1
            _record(optimizer, trainer.loggers, step, self._parts(optimizer, pl_module), watch)
            if isinstance(watch.circuit, LiveCircuitPerturbation):
                self._draw(watch, trainer.loggers, step)
        optimizer.statistics = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop listening to the perturbation."""
        if self._watch is not None:
            self._watch.stop()

    def _watching(self, optimizer: SuperpositionalGradientDescent) -> CircuitWatch:
        if self._watch is None or self._watch.perturbation is not optimizer.perturbation:
            self._watch = CircuitWatch(optimizer.perturbation)
        return self._watch

    def _draw(self, watch: CircuitWatch, loggers: list[Logger], step: int, *, drawing: bool = False) -> None:
        """Draw the outcomes of the first block next to the exact ones; with ``drawing`` also the circuit."""
        writers, circuit = tensorboard_writers(loggers), watch.circuit
        if not writers or circuit is None:
            return
        pictures = {}
        if drawing:
            pictures["circuit/drawing"] = drawing_image(str(circuit.ansatz.circuit.draw("text", fold=_FOLD)))
        outcomes = watch.outcomes()
        if outcomes is not None and outcomes.found:
            picture = outcome_picture(circuit.num_qubits, tuple(outcomes.found))
            shown = {"exact": outcomes.exact} | outcomes.found
            pictures["circuit/outcomes"] = picture.draw({name: p[0].numpy() for name, p in shown.items()})
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


def _record(
    optimizer: SuperpositionalGradientDescent,
    loggers: list[Logger],
    step: int,
    parts: Mapping[str, list[Tensor]],
    watch: CircuitWatch,
) -> None:
    """Log the statistics of the last recorded step, also of ``parts`` (parameters by name), and what was watched."""
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
        for part, params in parts.items():
            own = optimizer.statistics_of(params)
            if own["touched"] > 0:
                numbers |= {f"{one.name}/{part}": own[one.name].item() for one in STATISTICS if one.per_part}
        metrics |= {f"quantum/{name}": value for name, value in numbers.items()}
        metrics |= {f"circuit/{name}": value for name, value in watch.distances().items()}
        for name, values in (("s", s), ("angles", watch.angles)):
            for writer in tensorboard_writers(loggers) if len(values) else []:
                writer.add_histogram(f"quantum/{name}", values, step)
    for logger in loggers if metrics else []:
        logger.log_metrics(metrics, step=step)
