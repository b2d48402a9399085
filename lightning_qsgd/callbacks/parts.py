"""What several callbacks look up in a trainer."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import nn

from lightning_qsgd.optim import SuperpositionalGradientDescent

C = TypeVar("C")


def callbacks_of(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of a class, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def superpositional(optimizers: Sequence[Any]) -> SuperpositionalGradientDescent | None:
    """The first optimizer with a perturbation, or None."""
    return next((o for o in optimizers if isinstance(o, SuperpositionalGradientDescent)), None)


def names_of(trainer: L.Trainer, what: str) -> list[Any] | None:
    """Names that the data module has in an attribute such as ``labels``.

    Returns:
        The names, if the attribute is a list, tuple or array of distinct texts or integers. Otherwise None: a data
        module may use ``labels`` for something else, such as the labels of all rows.
    """
    found = getattr(getattr(trainer, "datamodule", None), what, None)
    found = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str | int) for name in found):
        return None
    return list(found) if len(set(found)) == len(found) else None


def num_classes_of(trainer: L.Trainer, pl_module: L.LightningModule) -> int | None:
    """Number of classes by the data module (``labels``, ``num_classes``) or the module (``num_classes``), or None."""
    labels = names_of(trainer, "labels")
    said = (getattr(getattr(trainer, "datamodule", None), "num_classes", None), len(labels) if labels else None)
    said = (*said, getattr(pl_module, "num_classes", None), pl_module.hparams.get("num_classes"))
    return next((number for number in said if isinstance(number, int)), None)


def circuit_modules(module: nn.Module) -> dict[str, Any]:
    """Modules with a circuit, by name. There are none if the quantum package was never imported."""
    if "lightning_qsgd.quantum" not in sys.modules:  # a classical run never pays for qiskit
        return {}
    from lightning_qsgd.quantum.layer import CircuitModule

    return {name: part for name, part in module.named_modules() if isinstance(part, CircuitModule)}


def tensorboard_writers(loggers: Iterable[Logger]) -> list[Any]:
    """The SummaryWriter of each TensorBoard logger; only rank 0 may use them."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
