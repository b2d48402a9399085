"""Loaders that data modules share."""

import os
from collections.abc import Mapping
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


def check_at_least(values: Mapping[str, Any], **limits: int) -> None:
    """Check arguments, for example ``check_at_least(locals(), batch_size=1)``.

    Raises:
        ValueError: if a value is below its limit.
    """
    for name, least in limits.items():
        if values[name] < least:
            raise ValueError(f"Invalid {name}: {values[name]}; it must be at least {least}")


def train_loader(dataset: Dataset[Any], batch_size: int, trainer: L.Trainer | None, **arguments: Any) -> DataLoader:
    """Batches in an order that is a function of (seed of ``seed_everything``, epoch), split among the processes.

    Args:
        dataset: the training data.
        batch_size: per process.
        trainer: the data module's trainer, which sets the epoch; None outside of Lightning: call
            ``loader.sampler.set_epoch(epoch)`` yourself.
        arguments: further ones of ``DataLoader``; see :func:`with_workers`.
    """
    replicas, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # set by seed_everything
    sampler = DistributedSampler(dataset, replicas, rank, shuffle=True, seed=seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **with_workers(arguments, trainer))


def with_workers(arguments: Mapping[str, Any], trainer: L.Trainer | None) -> dict[str, Any]:
    """Arguments of ``DataLoader``, and what suits them, where they do not say: workers stay for all epochs, and batches
    for a GPU come in pinned memory, from which they are copied faster.

    Args:
        arguments: num_workers and others.
        trainer: of the data module; None: no GPU.
    """
    on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
    return {"persistent_workers": arguments.get("num_workers", 0) > 0, "pin_memory": on_gpu} | dict(arguments)
