"""OptimizedTask, the base of all tasks: it builds optimizer and schedule, and seeds dropout."""

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_qsgd.optim import SuperpositionalGradientDescent, perturbed_groups
from lightning_qsgd.optim.param_groups import Kind


class OptimizedTask(L.LightningModule):
    """A LightningModule that trains with a given optimizer and scheduler; subclasses set the attributes.

    Attributes:
        optimizer: called with the parameters.
        scheduler: called with the optimizer, or None for a constant learning rate. It is stepped after each optimizer
            step, so ``T_max`` and similar options count steps; ``lightning.pytorch.cli.ReduceLROnPlateau`` is stepped
            after each epoch.
        leave_out: kinds of parameters that are not perturbed; see :func:`lightning_qsgd.optim.perturbed_groups`.
            Default: none.
        perturb: regular expression; only parameters whose name it matches somewhere are perturbed. Default: all.
        summary_metrics: logged metrics to write to the run's ``summary.json``. Default: none.
    """

    optimizer: OptimizerCallable
    scheduler: LRSchedulerCallable | None
    leave_out: Sequence[Kind] = ()
    perturb: str | None = None
    summary_metrics: Sequence[str] = ()

    def on_train_start(self) -> None:
        """Prepare the perturbation, unless a checkpoint has restored it."""
        for optimizer in self.trainer.optimizers:
            if isinstance(optimizer, SuperpositionalGradientDescent) and (line := optimizer.prepare()):
                self.print(line)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout from (seed, epoch, batch, rank), so that a resumed run repeats it and compared runs share it."""
        if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
            position = (int(seed), self.current_epoch, batch_idx, self.global_rank)
            _seed(int(np.random.SeedSequence(position).generate_state(1)[0]), self.device)

    def configure_optimizers(self) -> Any:
        """Build the optimizer, and the scheduler if there is one."""
        grouped = self.leave_out or self.perturb is not None
        params: Any = perturbed_groups(self, self.leave_out, self.perturb) if grouped else self.parameters()
        optimizer = self.optimizer(params)
        if isinstance(optimizer, SuperpositionalGradientDescent):
            # After a second call, by a tuner or a second fit, tables and counts must start anew.
            optimizer.perturbation = copy.deepcopy(optimizer.perturbation)
            optimizer.displacement = copy.deepcopy(optimizer.displacement)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            config = {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor}
        return {"optimizer": optimizer, "lr_scheduler": config}


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of the accelerators in use. (torch.manual_seed seeds all, which is slow.)"""
    torch.default_generator.manual_seed(seed)
    if device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed_all(seed)


def spread(model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard the weights over the processes of ModelParallelStrategy, block by block (FSDP2).

    Raises:
        ValueError: if ``tensor_parallel_size`` is above 1.
    """
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"Invalid tensor_parallel_size: {mesh['tensor_parallel'].size()}; it must be 1 (this model is not split "
            "within tensors), with data_parallel_size the number of all processes"
        )
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh["data_parallel"])
