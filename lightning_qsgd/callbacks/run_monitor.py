"""What loggers get from any run: RunMonitor its cost and the layout of TensorBoard, RunPage how it was started."""

import platform
import re
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import SaveConfigCallback

from lightning_qsgd.callbacks.attention_monitor import AttentionMonitor, quantum_layers
from lightning_qsgd.callbacks.hyperparameters import write_hyperparameters
from lightning_qsgd.callbacks.parts import callbacks_of, superpositional, tensorboard_writers
from lightning_qsgd.callbacks.perturbation_monitor import PerturbationMonitor
from lightning_qsgd.callbacks.run_summary import count_circuits, peak_memory, that_count
from lightning_qsgd.optim import (
    CircuitPerturbation,
    LiveCircuitPerturbation,
    Perturbation,
    SuperpositionalGradientDescent,
    TwinPerturbation,
)
from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.optim.statistics import STATISTICS
from lightning_qsgd.scrubbing import scrubbed

PACKAGES = ("lightning-qsgd", "torch", "lightning", "qiskit", "qiskit-aer", "qiskit-machine-learning")
#: The charts of a group: title to (kind of chart, tags), as ``SummaryWriter.add_custom_scalars`` takes it.
Charts = dict[str, list[Any]]


class RunMonitor(L.Callback):
    """Log learning rate and cost every n optimizer steps, and arrange TensorBoard's charts under Custom Scalars.

    - ``train/learning_rate``: that of the step. Several parameter groups have ``train/learning_rate/0`` and so on.
    - ``cost/seconds_per_step``: mean since the last record, without data loading, validation, and the first step, which
      includes one-time work.
    - ``cost/memory_GB``, ``cost/gpu_memory_GB``: peak resident memory of rank 0, and peak memory on its GPU.
    - ``cost/other_circuits``, ``cost/other_shots``: circuits and shots so far of layers and of a displacement, if there
      are any. :class:`PerturbationMonitor` logs those of the perturbation.

    Args:
        every_n_steps: optimizer steps between two records, at least 1. With 0 the callback writes neither records nor
            the layout. Default: 50.

    Raises:
        ValueError: for a negative every_n_steps.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 0:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; it must be at least 0")
        self.every_n_steps = every_n_steps
        self._rates: dict[str, float] | None = None  # of the step that is recorded
        self._started, self._seconds = 0.0, 0.0  # of the batch; since the last record
        self._last: int | None = None  # the step of the last record

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the layout."""
        self._rates, self._last = None, None
        if self.every_n_steps and trainer.is_global_zero:
            for writer in tensorboard_writers(trainer.loggers):
                writer.add_custom_scalars(dashboard(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Keep the learning rates of every n-th step before a scheduler changes them."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            groups = optimizer.param_groups
            names = [""] if len(groups) == 1 else [f"/{k}" for k in range(len(groups))]
            rates = {f"train/learning_rate{name}": float(g["lr"]) for name, g in zip(names, groups, strict=True)}
            self._rates = rates

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every n-th step."""
        self._seconds += time.perf_counter() - self._started
        metrics, self._rates = self._rates, None
        if metrics is None:
            return
        step, seconds = trainer.global_step - 1, self._seconds
        if self._last is not None:
            metrics["cost/seconds_per_step"] = seconds / max(step - self._last, 1)
        self._last, self._seconds = step, 0.0
        if not trainer.is_global_zero or not trainer.loggers:
            return
        metrics["cost/memory_GB"] = peak_memory()
        if pl_module.device.type == "cuda":
            metrics["cost/gpu_memory_GB"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        ours = superpositional(trainer.optimizers)
        circuits, shots, _ = count_circuits(pl_module, ours)
        if ours is not None:
            circuits, shots = circuits - ours.perturbation.circuits, shots - ours.perturbation.shots
        if circuits:
            metrics |= {"cost/other_circuits": circuits, "cost/other_shots": shots}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


class RunPage(SaveConfigCallback):
    """Save config.yaml as Lightning does, and write command, versions and configuration as a text into TensorBoard.

    The text is called ``run``. Secrets are removed from it. The page HPARAMS gets a row for the run; see
    :func:`lightning_qsgd.callbacks.hyperparameters.hyperparameters`.

    Args:
        arguments: the command line. Default: none.
        *args: the arguments of ``lightning.pytorch.cli.SaveConfigCallback``.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, arguments: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = arguments

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the text and the row. A resumed run has one text for each start."""
        if not trainer.is_global_zero:
            return
        for writer in tensorboard_writers(trainer.loggers):
            config = self.parser.dump(self.config, skip_unset=False, skip_validation=True)  # it was parsed
            writer.add_text("run", run_page(self.arguments, config), trainer.global_step)
            write_hyperparameters(writer, trainer, pl_module)


def run_page(arguments: Sequence[str], config: str) -> str:
    """The text in Markdown.

    Args:
        arguments: the command line without the program.
        config: the configuration in YAML.
    """
    rows = [f"| {name} | {_version(name)} |" for name in PACKAGES] + [f"| Python | {platform.python_version()} |"]
    words = ((" \\\n    " if word.startswith("--") else " ") + shlex.quote(word) for word in arguments)
    command = _block("lightning-qsgd" + "".join(words))
    table = "\n".join(["| package | version |", "|---|---|", *rows])
    return scrubbed(f"### Command\n\n{command}\n\n### Versions\n\n{table}\n\n### Configuration\n\n{_block(config)}")


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on the path
        return "not installed"


# ---- the layout of TensorBoard's page Custom Scalars


def dashboard(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Charts]:
    """Groups of the charts whose tags can occur in this run.

    Args:
        trainer: that of a fit, once it has its optimizers.
        module: the trained module.

    Returns:
        Training, Quantum perturbation, Circuit, Attention, Cost; the middle three only if the run has them.
    """
    groups = {"Training": _training()}
    optimizer = superpositional(trainer.optimizers)
    monitor = next((c for c in callbacks_of(trainer, PerturbationMonitor) if c.every_n_steps), None)
    counts = len(that_count(module, optimizer)) > (optimizer is not None)  # something other than the perturbation
    if optimizer is not None and monitor is not None:
        groups["Quantum perturbation"] = _perturbation(optimizer, monitor)
        if any(map(participates, optimizer.param_groups)):
            if isinstance(optimizer.perturbation, CircuitPerturbation):
                groups["Circuit"] = _circuit(optimizer.perturbation)
            counts |= _runs_circuits(optimizer.perturbation)
    watched = any(c.every_n_steps for c in callbacks_of(trainer, AttentionMonitor))
    if watched and quantum_layers(trainer, module):
        groups["Attention"] = _attention()
    groups["Cost"] = _cost(counts, on_gpu=module.device.type == "cuda")
    return {name: charts for name, charts in groups.items() if charts}


def _runs_circuits(perturbation: Perturbation) -> bool:
    if isinstance(perturbation, TwinPerturbation) and perturbation.asks:
        return _runs_circuits(perturbation.reference)
    return isinstance(perturbation, CircuitPerturbation)


def _training() -> Charts:
    return {
        "Loss: last batch, mean of an epoch, validation": _lines("train/loss", "train/loss_epoch", "val/loss"),
        "Validation scores": ["Multiline", ["val/(?!loss).+"]],  # accuracy and F1; of language models perplexity
        "Learning rate": _lines("train/learning_rate", parts=True),
    }


def _perturbation(optimizer: SuperpositionalGradientDescent, monitor: PerturbationMonitor) -> Charts:
    charts: Charts = {}
    if any(map(participates, optimizer.param_groups)):
        band = {"Modulation: mean, 5 % to 95 %": ["Margin", ["quantum/offset", "quantum/s_low", "quantum/s_high"]]}
        titles = dict.fromkeys(one.chart for one in STATISTICS if one.chart is not None)
        tags = {title: [f"quantum/{one.name}" for one in STATISTICS if one.chart == title] for title in titles}
        charts = {title: _lines(*own) for title, own in tags.items()} | band
        if monitor.per != "model":
            charts |= {
                f"Size beside Adam's step, by {monitor.per}": _lines("quantum/norm_ratio/", parts=True),
                f"Spread of the modulation, by {monitor.per}": _lines("quantum/spread/", parts=True),
            }
    if optimizer.displacement is not None:
        charts["Schedule of the displacement's radius"] = _lines("quantum/radius")
    return charts


def _circuit(circuit: CircuitPerturbation) -> Charts:
    charts = {
        "Total variation from the exact circuit; of shots alone": _lines(
            "circuit/total_variation", "circuit/total_variation_expected"
        ),
        "Error of the modulation; of shots alone": _lines("circuit/error", "circuit/error_expected"),
    }
    if isinstance(circuit, LiveCircuitPerturbation):
        if circuit.on_failure == "series":
            charts["Steps that the series answered"] = _lines("quantum/fallback_steps")
    elif not circuit.calibration:
        charts["Residual of the series, once; of shots alone"] = _lines(
            "quantum/surrogate_residual", "quantum/surrogate_residual_expected"
        )
    return charts


def _attention() -> Charts:
    tags = {
        "Spread of the scores, and of what Phi adds": ("score_spread/", "phi_spread/"),
        "Share of Phi in the scores": ("phi_share/",),
        "Entropy of the weights: with Phi, without": ("entropy/", "entropy_without/"),
        "Attention that Phi moves": ("moved/",),
        "Gain and scale": ("gain/", "scale/"),
    }
    return {title: _lines(*(f"attention/{tag}" for tag in own), parts=True) for title, own in tags.items()}


def _cost(counts: bool, *, on_gpu: bool) -> Charts:
    charts = {
        "Seconds per step": _lines("cost/seconds_per_step"),
        "Peak memory, GB": _lines("cost/memory_GB", *["cost/gpu_memory_GB"] * on_gpu),
    }
    if counts:
        charts["Circuits so far: perturbation, others"] = _lines("quantum/circuits", "cost/other_circuits")
        charts["Shots so far: perturbation, others"] = _lines("quantum/shots", "cost/other_shots")
    return charts


def _lines(*tags: str, parts: bool = False) -> list[Any]:
    """A chart of these tags, which TensorBoard takes as regular expressions; with ``parts`` also of longer tags."""
    return ["Multiline", [f"{re.escape(tag)}{'.*' * parts}$" for tag in tags]]
