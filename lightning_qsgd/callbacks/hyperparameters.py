"""What TensorBoard's page HPARAMS shows of a run: a row with its learning rate, weight, model, twin and seed."""

import os
from typing import Any

import lightning as L
from torch import nn

from lightning_qsgd.callbacks.circuit_twins import CircuitTwins
from lightning_qsgd.callbacks.parts import callbacks_of, superpositional
from lightning_qsgd.optim import TwinPerturbation

PARTS = ("encoder", "body", "head")


def hyperparameters(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """The settings of a run by which one tells runs apart: five, because TensorBoard shows the first five columns.

    Args:
        trainer: that of a fit, once it has its optimizers.
        module: the trained module.

    Returns:
        ``learning_rate`` (initial) and ``quantum_weight`` (0 without a perturbation) of the first parameter group, if
        there is an optimizer; ``model``, see :func:`model_name`; ``twin`` of circuit layers or of the perturbation, or
        "none"; ``seed``, if there is a global one.
    """
    ours = superpositional(trainer.optimizers)
    found: dict[str, Any] = {}
    if trainer.optimizers:
        group = (ours or trainer.optimizers[0]).param_groups[0]
        found["learning_rate"] = float(group.get("initial_lr", group["lr"]))
        found["quantum_weight"] = float(group["quantum_weight"]) if ours is not None else 0.0
    twins = [callback.kind for callback in callbacks_of(trainer, CircuitTwins)]
    if ours is not None and isinstance(ours.perturbation, TwinPerturbation):
        twins.append(ours.perturbation.kind)
    found["model"] = model_name(module)
    found["twin"] = ", ".join(twins) or "none"
    if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
        found["seed"] = int(seed)
    return found


def model_name(module: nn.Module) -> str:
    """The classes of encoder, body and head, such as "Linear, QuantumBody, Linear", or the module's own class.

    They are attributes of these names, of the module or of its ``model``.
    """
    for owner in (module, getattr(module, "model", None)):
        parts = [part for name in PARTS if isinstance(part := getattr(owner, name, None), nn.Module)]
        if len(parts) > 1:
            return ", ".join(type(part).__name__ for part in parts)
    return type(module).__name__


def write_hyperparameters(writer: Any, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Write the row of a run, with the metric that its checkpoints monitor.

    Args:
        writer: the ``SummaryWriter`` of a TensorBoard logger.
        trainer: that of a fit, once it has its optimizers.
        module: the trained module.
    """
    from torch.utils.tensorboard.summary import hparams  # which takes a while

    monitor = getattr(trainer.checkpoint_callback, "monitor", None)
    for summary in hparams(hyperparameters(trainer, module), {} if monitor is None else {monitor: 0.0}):
        writer.file_writer.add_summary(summary)
