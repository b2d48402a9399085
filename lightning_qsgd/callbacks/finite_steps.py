"""FiniteSteps: refuse steps with a non-finite loss or gradient, and checkpoints with non-finite weights."""

from typing import Any, Literal

import lightning as L
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

from lightning_qsgd.optim.coordinates import local


class FiniteSteps(L.Callback):
    """Check losses and gradients before each optimizer step; NaN or infinity stops the run or skips the step.

    Nothing of a bad step is applied: weights, moments and the perturbation's counter are unchanged. Accumulated
    gradients belong to one step, and all ranks decide alike. A GradScaler (16-mixed) handles non-finite gradients
    itself, so that only the loss is checked. A checkpoint with non-finite weights is refused, and the earlier file is
    kept.

    Args:
        on_nonfinite: "stop" (default) ends the run with an error that names value and batch. "skip" skips the step,
            warns once and counts it as ``train/skipped``. Lightning's ``global_step`` and schedulers count it too, as
            they do with a GradScaler. Running statistics of layers, such as those of batch norm, include the batch.
        max_in_a_row: number of skipped steps in a row, at least 1, after which the run stops. Default: 10.
        every_n_steps: check every n-th optimizer step, at least 1. Larger values synchronize less often with a GPU. A
            bad step between checks is applied, but its weights are never saved. "skip" requires 1. Default: 1.

    Attributes:
        skipped: number of skipped optimizer steps.

    Raises:
        ValueError: for an invalid value or combination.
        FloatingPointError: in training, for a non-finite value; in saving, for non-finite weights.
    """

    def __init__(
        self, on_nonfinite: Literal["stop", "skip"] = "stop", max_in_a_row: int = 10, every_n_steps: int = 1
    ) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"Invalid on_nonfinite: {on_nonfinite!r}; it must be 'stop' or 'skip'")
        for name, value in (("max_in_a_row", max_in_a_row), ("every_n_steps", every_n_steps)):
            if value < 1:
                raise ValueError(f"Invalid {name}: {value}; it must be at least 1")
        if on_nonfinite == "skip" and every_n_steps > 1:
            raise ValueError(f"Invalid every_n_steps: {every_n_steps}; on_nonfinite='skip' must look at each step: 1")
        self.on_nonfinite, self.max_in_a_row, self.every_n_steps = on_nonfinite, max_in_a_row, every_n_steps
        self.skipped = 0
        self._in_a_row = 0
        self._looks = 0
        self._batch = 0
        self._losses: list[tuple[int, Tensor]] = []  # of this step: number of the batch, loss
        self._bad = False  # the step of this batch was skipped

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the number of the batch."""
        self._batch = batch_idx

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keep the loss, which is checked together with the gradients."""
        self._losses.append((self._batch, loss.detach()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """Check losses and gradients; stop, or remove the gradients so that no weight moves."""
        losses, self._losses = self._losses, []
        self._looks += 1
        if (self._looks - 1) % self.every_n_steps:
            return
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        finite = _finite([loss for _, loss in losses] + ([] if scaled else [p.grad for p in params]))
        if trainer.strategy.reduce_boolean_decision(finite):
            self._in_a_row = 0
            return
        text = self._describe(pl_module, losses, [] if scaled else params)
        where = f"epoch {trainer.current_epoch + 1}, batch {self._batch + 1} (step {trainer.global_step})"
        stop = self.on_nonfinite == "stop"
        if stop or self._in_a_row == self.max_in_a_row:
            after = "" if stop else f", after {self.max_in_a_row} skipped steps in a row"
            raise FloatingPointError(
                f"{text} in {where}{after}; nothing of this step was applied. Try a lower learning rate or "
                "--trainer.gradient_clip_val=1, or find its origin with --config configs/overlay/debug.yaml"
                + (", or skip such steps with --finite.on_nonfinite=skip" if stop else "")
            )
        if not self.skipped:
            rank_zero_warn(f"{text} in {where}: this step is skipped, as are all such steps; train/skipped counts them")
        self.skipped, self._in_a_row, self._bad = self.skipped + 1, self._in_a_row + 1, True
        for p in params:
            p.grad = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the number of skipped steps if it has changed."""
        if self._bad:
            self._bad = False
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.log_metrics({"train/skipped": self.skipped}, step=trainer.global_step - 1)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Drop the losses of an incomplete step."""
        self._losses.clear()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse non-finite weights. Buffers may hold infinities, as masks do."""
        if trainer.strategy.reduce_boolean_decision(_finite([*pl_module.parameters()])):
            return
        name = next((name for name, p in pl_module.named_parameters() if not _finite([p])), "of another rank")
        raise FloatingPointError(
            f"The weights {name} are not finite in epoch {trainer.current_epoch + 1} (step {trainer.global_step}): "
            "they are not saved, and the last checkpoint is unchanged. Resume from it with a lower learning rate or "
            "--trainer.gradient_clip_val=1"
        )

    def _describe(self, module: L.LightningModule, losses: list[tuple[int, Tensor]], params: list[Any]) -> str:
        """Name the first non-finite loss, or else the first non-finite gradient."""
        for batch, loss in losses:
            if not _finite([loss]):
                which = "" if len(losses) == 1 else f" of batch {batch + 1}"
                return f"The loss{which} is {loss.float().sum().item()}"
        names = {id(p): name for name, p in module.named_parameters()}
        for p in params:
            if not _finite([p.grad]):
                return f"The gradient of {names.get(id(p), 'a parameter')} is not finite"
        return "A loss or gradient of another rank is not finite"

    def state_dict(self) -> dict[str, Any]:
        """The counters."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the counters."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]


@torch.no_grad()
def _finite(tensors: list[Any]) -> bool:
    """Whether all values on this rank are finite, with one synchronization."""
    if not tensors:
        return True
    sums = [local(tensor).sum() for tensor in tensors]
    if bool(torch.stack([part.to(sums[0].device) for part in sums]).sum().isfinite()):
        return True
    parts = [tensor._values() if tensor.is_sparse else tensor for tensor in map(local, tensors)]  # the sum may overflow
    return bool(get_total_norm([part for part in parts if part.numel()], float("inf")).isfinite())
