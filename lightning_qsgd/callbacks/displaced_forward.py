"""DisplacedForward: gradients at displaced weights in Lightning's own training loop."""

import copy
from typing import Any

import lightning as L

from lightning_qsgd.optim import MeasuredDisplacement, SuperpositionalGradientDescent


class DisplacedForward(L.Callback):
    """Displace the weights before the forward pass of each batch, and restore them after its backward pass.

    The callback uses the ``displacement`` of the run's :class:`SuperpositionalGradientDescent`; without one it does
    nothing. Every run of the commands has it. Your own Trainer needs it if it accumulates gradients or scales them
    (16-mixed), because forward passes then run outside of ``optimizer.step``.

    With ``accumulate_grad_batches`` each micro-batch has its own draw. Validation and checkpoints use the exact
    weights. With manual optimization the callback does nothing: put the loss and its backward pass into
    ``with optimizer.displaced():``. The optimizer refuses gradients of weights that were not displaced.

    Raises:
        ValueError: when an epoch starts, for copies above 1, or for bias="antithetic" with an odd number of
            accumulated batches.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the settings; a scheduler of the accumulation has set it for this epoch by now."""
        optimizer = _displacing(trainer)
        if optimizer is None or optimizer.displacement is None:
            return
        displacement, window = optimizer.displacement, trainer.accumulate_grad_batches
        if displacement.copies > 1:
            raise ValueError(
                f"Invalid copies: {displacement.copies}; under Lightning each batch is displaced once. Use copies=1 "
                f"with --trainer.accumulate_grad_batches={displacement.copies}: each batch then has its own draw"
            )
        if displacement.bias == "antithetic" and window % 2:
            raise ValueError(
                f"Invalid accumulate_grad_batches: {window}; it must be even with bias='antithetic', whose draws come "
                "in pairs. Or use bias='centred'"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Displace the weights."""
        if (optimizer := _displacing(trainer)) is not None:
            optimizer.displace(draw=batch_idx % trainer.accumulate_grad_batches)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the exact weights."""
        self._restore(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore the exact weights after a batch without backward pass (training_step returned None)."""
        self._restore(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the exact weights if the module skipped the rest of its epoch."""
        self._restore(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the exact weights."""
        self._restore(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the exact weights."""
        self._restore(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the exact weights, also within a batch."""
        if (displacement := _active(trainer)) is None:
            return
        with displacement.undisplaced():
            # The state dict shares memory with the weights, which are displaced again before the file is written.
            for key in {"state_dict", "current_model_state"} & checkpoint.keys():  # the latter: weight averaging's
                checkpoint[key] = copy.deepcopy(checkpoint[key])

    def _restore(self, trainer: L.Trainer) -> None:
        if (displacement := _active(trainer)) is not None:
            displacement.restore()


def _displacing(trainer: L.Trainer) -> SuperpositionalGradientDescent | None:
    """The optimizer with a displacement, in automatic optimization."""
    if trainer.lightning_module is None or not trainer.lightning_module.automatic_optimization:
        return None
    ours = (o for o in trainer.optimizers if isinstance(o, SuperpositionalGradientDescent))
    return next((o for o in ours if o.displacement is not None), None)


def _active(trainer: L.Trainer) -> MeasuredDisplacement | None:
    optimizer = _displacing(trainer)
    displacement = None if optimizer is None else optimizer.displacement
    return displacement if displacement is not None and displacement.active else None
