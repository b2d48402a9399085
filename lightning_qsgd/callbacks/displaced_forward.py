"""DisplacedForward: gradients at displaced weights in Lightning's own training loop."""

import copy
from typing import Any

import lightning as L

from lightning_qsgd.optim import MeasuredDisplacement, SuperpositionalGradientDescent


class DisplacedForward(L.Callback):
    """Displaces the weights before each batch's forward pass, and puts the exact ones back after its backward pass.

    It uses the ``displacement`` of the run's :class:`SuperpositionalGradientDescent` and does nothing where there is
    none. Every run of this package's commands has this callback; a Trainer of your own needs it if it accumulates
    gradients or scales them (16-mixed), because its forward passes then run outside of ``optimizer.step``.

    With ``accumulate_grad_batches`` each micro-batch has a draw of its own. Validation and checkpoints always have the
    exact weights. With manual optimization this callback does nothing: there, put the loss and its backward pass into
    ``with optimizer.displaced():``; the optimizer refuses gradients of weights that were not displaced.

    Raises:
        ValueError: when an epoch starts, for copies above 1, or for bias="antithetic" with an odd number of
            accumulated batches.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what cannot work, once a scheduler of the accumulation has set it for this epoch."""
        optimizer = _displacing(trainer)
        if optimizer is None or optimizer.displacement is None:
            return
        displacement, window = optimizer.displacement, trainer.accumulate_grad_batches
        if displacement.copies > 1:
            raise ValueError(
                f"Invalid copies: {displacement.copies}; under Lightning each batch is displaced once. Use copies=1 "
                f"with --trainer.accumulate_grad_batches={displacement.copies}: each of its batches has its own draw"
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
        """Put the exact weights back."""
        self._restore(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the exact weights back after a batch without backward pass (training_step returned None)."""
        self._restore(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the exact weights back after a batch that the module skipped with the rest of its epoch."""
        self._restore(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the exact weights."""
        self._restore(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the exact weights, for whoever looks at them or saves them."""
        self._restore(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the exact weights, where something asks for a checkpoint in the middle of a batch."""
        if (displacement := _active(trainer)) is None:
            return
        with displacement.undisplaced():
            # What is saved are the weights' own tensors, which will be displaced again before they are written.
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
