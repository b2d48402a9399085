"""Parts of a trainer that several callbacks look for."""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_qsgd.optim import SuperpositionalGradientDescent


def superpositional(optimizers: Sequence[Any]) -> SuperpositionalGradientDescent | None:
    """The first optimizer that has a perturbation; None if there is none."""
    return next((o for o in optimizers if isinstance(o, SuperpositionalGradientDescent)), None)


def names_of(trainer: L.Trainer, what: str) -> list[Any] | None:
    """Names that the data module gives, as by ``labels``: a list, tuple or array of different texts or integers.

    None where there is nothing of the kind; data modules may call other things ``labels``, such as those of all rows.
    """
    found = getattr(getattr(trainer, "datamodule", None), what, None)
    found = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str | int) for name in found):
        return None
    return list(found) if len(set(found)) == len(found) else None


def num_classes_of(trainer: L.Trainer, pl_module: L.LightningModule) -> int | None:
    """How many classes there are, if data module (``labels``, ``num_classes``) or module (``num_classes``) say so."""
    labels = names_of(trainer, "labels")
    said = (getattr(getattr(trainer, "datamodule", None), "num_classes", None), len(labels) if labels else None)
    said = (*said, getattr(pl_module, "num_classes", None), pl_module.hparams.get("num_classes"))
    return next((number for number in said if isinstance(number, int)), None)


def tensorboard_writers(loggers: Iterable[Logger]) -> list[Any]:
    """What writes into TensorBoard, one for each of its loggers; only rank 0 may use them."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
