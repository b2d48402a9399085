"""Parts of a trainer that several callbacks look for."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_qsgd.optim import SuperpositionalGradientDescent


def superpositional(optimizers: Sequence[Any]) -> SuperpositionalGradientDescent | None:
    """The first optimizer that has a perturbation; None if there is none."""
    return next((o for o in optimizers if isinstance(o, SuperpositionalGradientDescent)), None)


def tensorboard_writers(loggers: Iterable[Logger]) -> list[Any]:
    """What writes into TensorBoard, one for each of its loggers; only rank 0 may use them."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
