"""Repeatable passes of a trained module over validation data, with parts recorded or replaced."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from torch import Tensor, nn

from lightning_qsgd.audit.findings import Metric
from lightning_qsgd.quantum import QuantumLayer, QuantumNetwork, ScoreSeries
from lightning_qsgd.quantum.samplers import with_noise_position
from lightning_qsgd.report.numbers import check_direction, direction_of

Change = tuple[nn.Module, str, Callable[..., Any]]


class Passed(NamedTuple):
    """The result of a pass: the metric, a mask (examples,) of right examples, and the share of the most common label.

    The mask and the share are None if they are unknown.
    """

    value: float
    right: Tensor | None
    chance: float | None


class Passes:
    """Validates a trained module repeatedly, with the same random numbers and shots each time.

    Loggers and progress bars are disabled; compiled models run uncompiled.

    Args:
        trainer: a trainer with one process.
        module: the trained module, which does not change.
        data: its data module, or None if the module has its own data loaders.
        metric: a logged metric. Default: None, the metric that the trainer's checkpoint callback monitors.
        mode: "max" if higher is better, or "min". Default: None, "min" for names that end in loss, mse, mae, error and
            the like, "max" for accuracy, f1, r2 and the like, otherwise that of the checkpoint callback that monitors
            it, or "max".
        seed: seed of the passes. Default: 0.

    Attributes:
        metric, mode: the metric and its direction.

    Raises:
        ValueError: for a trainer with several processes, without a metric, or for a mode that the metric does not have.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        data: L.LightningDataModule | None,
        metric: str | None = None,
        mode: Literal["max", "min"] | None = None,
        seed: int = 0,
    ) -> None:
        if trainer.world_size > 1:
            raise ValueError(
                f"Invalid trainer.devices: {trainer.world_size} processes; layers are audited in one: "
                "use --trainer.devices 1 --trainer.num_nodes 1"
            )
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        monitors: dict[str | None, Literal["max", "min"]]
        monitors = {c.monitor: "min" if c.mode == "min" else "max" for c in checkpoints}
        metric = metric or next(filter(None, monitors), None)
        if metric is None:
            raise ValueError(
                "Invalid metric: None; name one that validation logs, such as metric='val/accuracy', "
                "or let a ModelCheckpoint monitor one"
            )
        self.metric: str = metric
        self.mode: Literal["max", "min"] = mode or direction_of(metric) or monitors.get(metric, "max")
        check_direction("mode", self.mode, metric)
        self._trainer, self._module, self._data, self._seed = trainer, module, data, seed
        self._positions: dict[Any, tuple[int, int]] = {}

    def run(
        self, change: Callable[[L.LightningModule], AbstractContextManager[Any]] | None = None, loader: Any = None
    ) -> Passed:
        """Run a pass.

        Args:
            change: called with the configured module; returns a context for the pass, such as :func:`substituted`.
                Default: None, no change.
            loader: a data loader to use instead of the validation data. Default: None.

        Raises:
            ValueError: if the metric is not logged, or there are no validation data.
        """
        trainer: Any = self._trainer  # its list of callbacks has no type
        module = self._module
        watcher = _Watcher(change or (lambda module: nullcontext()), self.rewind)
        callbacks, loggers = trainer.callbacks, trainer.loggers
        trainer.callbacks = [c for c in callbacks if not isinstance(c, ProgressBar | Checkpoint)] + [watcher]
        trainer.loggers = []
        torch.manual_seed(self._seed)
        try:
            with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*sampler has shuffling enabled.*")
                if loader is None:
                    trainer.validate(module, datamodule=self._data, verbose=False)
                else:
                    trainer.validate(module, dataloaders=loader, verbose=False)
        finally:
            watcher.close()
            trainer.callbacks, trainer.loggers = callbacks, loggers
        if not watcher.batches:
            raise ValueError("No validation data: an audit of layers needs a validation_step and validation batches")
        logged = trainer.callback_metrics
        if self.metric not in logged:
            raise ValueError(
                f"Invalid metric: {self.metric!r}; validation logs {', '.join(sorted(logged)) or 'nothing'}"
            )
        value, right = float(logged[self.metric]), watcher.right()
        counted = right is not None and math.isclose(float(right.double().mean()), value, abs_tol=1e-4)
        return Passed(value, right, watcher.chance()) if counted else Passed(value, None, None)

    def rewind(self) -> None:
        """Reset samplers with repeatable noise to their positions when they were first seen."""
        for sampler in _samplers(self._module):
            sampler.noise_position = self._positions.setdefault(sampler, sampler.noise_position)

    def judged(self, passed: Passed) -> Metric:
        """The metric of the unchanged model, from its pass."""
        examples = 0 if passed.right is None else len(passed.right)
        return Metric(self.metric, self.mode, passed.value, examples, passed.chance)

    def training_data(self) -> Any:
        """The training data of the trainer, the data module or the module; None if there are none."""
        if self._trainer.train_dataloader is not None:
            return self._trainer.train_dataloader
        if self._data is not None:
            self._data.prepare_data()
            self._data.setup("fit")
        try:
            return (self._data or self._module).train_dataloader()
        except MisconfigurationException:  # the method does not exist
            return None


@contextmanager
def substituted(changes: Iterable[Change]) -> Iterator[None]:
    """Replace methods of modules within a block, and restore them afterwards, also after an error.

    Unlike with hooks, a replaced method does not run, since circuits on a device cost money.

    Args:
        changes: for each method, its module, its name, and the replacement, which is called without the module.
    """
    with ExitStack() as stack:
        for module, name, method in changes:
            stack.callback(_put_back, module, name, vars(module).get(name))
            setattr(module, name, method)
        yield


def _put_back(module: nn.Module, name: str, before: Any) -> None:
    if before is None:
        delattr(module, name)
    else:
        setattr(module, name, before)


class Reservoir:
    """A uniform random sample of the rows of a stream.

    Args:
        size: maximum number of rows in the sample, at least 1.
        seed: seed of the sample.

    Attributes:
        seen: number of rows so far.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seen = size, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._columns: list[Tensor] = []

    def add(self, *columns: Tensor) -> None:
        """Offer M rows, as tensors (M, ...) on any device. The sample is kept in float64 on the CPU."""
        keys = torch.rand(len(columns[0]), dtype=torch.float64, generator=self._generator)
        self.seen += len(keys)
        worst = self._keys.max() if len(self._keys) >= self.size else math.inf
        chosen = (keys < worst).nonzero()[:, 0]
        rows = [column.detach()[chosen.to(column.device)].cpu().double() for column in columns]
        keys = torch.cat([self._keys, keys[chosen]])
        best = keys.argsort()[: self.size]
        self._keys = keys[best]
        before = self._columns or [column[:0] for column in rows]
        self._columns = [torch.cat(pair)[best] for pair in zip(before, rows, strict=True)]

    def columns(self) -> list[Tensor]:
        """The sampled rows in random order; an empty list before the first call of :meth:`add`."""
        return [column.clone() for column in self._columns]


class _Watcher(L.Callback):
    """Changes the module when validation starts, and records which examples it gets right."""

    def __init__(
        self, change: Callable[[L.LightningModule], AbstractContextManager[Any]], before: Callable[[], None]
    ) -> None:
        self.change, self.before, self.batches = change, before, 0
        self._answers: list[Any] = []
        self._right: list[Tensor | None] = []
        self._labels: Counter[int] = Counter()
        self._stack = ExitStack()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the change."""
        self.before()
        self._stack.enter_context(self.change(pl_module))
        hook = pl_module.register_forward_hook(lambda module, inputs, answer: self._answers.append(answer))
        self._stack.callback(hook.remove)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare with the labels."""
        self.batches += 1
        labels = _labels(batch)
        self._right.append(_right(self._answers, labels))
        if self._right[-1] is not None:
            self._labels.update(labels.tolist())
        self._answers = []

    def close(self) -> None:
        """Undo the change."""
        self._stack.close()

    def chance(self) -> float:
        """The share of the most common label."""
        return max(self._labels.values()) / self._labels.total()

    def right(self) -> Tensor | None:
        """A mask (examples,) of right examples; None unless all batches have labels and class scores."""
        rows = [row for row in self._right if row is not None]
        return torch.cat(rows).clone() if rows and len(rows) == len(self._right) else None


def _labels(batch: Any) -> Any:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[1]
    return batch.get("labels") if isinstance(batch, dict) else None


def _right(answers: list[Any], labels: Any) -> Tensor | None:
    """The examples of a batch whose largest class score is at their label; None if the module has no class scores."""
    if len(answers) != 1 or not isinstance(answers[0], Tensor) or not isinstance(labels, Tensor):
        return None
    scores = answers[0]
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or labels.is_floating_point():
        return None
    return (scores.argmax(1) == labels).cpu()


def _samplers(module: nn.Module) -> list[Any]:
    """The samplers in a model whose noise has a position."""
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import SamplerQNN

    found = []
    for part in module.modules():
        if isinstance(part, QuantumLayer | ScoreSeries) and isinstance(part.engine, QuantumNetwork):
            found.append(with_noise_position(part.engine.sampler))
        elif isinstance(part, TorchConnector) and isinstance(part.neural_network, SamplerQNN):
            found.append(with_noise_position(part.neural_network.sampler))
    return [sampler for sampler in found if sampler is not None]
