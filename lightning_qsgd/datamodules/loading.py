"""Loaders that data modules share."""

import os
from collections.abc import Iterator, Mapping, Sized
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
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # set by seed_everything
    sampler = DistributedSampler(dataset, **_place(trainer), shuffle=True, seed=seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **with_workers(arguments, trainer))


def evaluation_loader(
    dataset: Dataset[Any], batch_size: int, trainer: L.Trainer | None, **arguments: Any
) -> DataLoader:
    """Batches in order, split among the processes so that each example is seen exactly once.

    Lightning's own split, which it makes of other loaders, repeats examples until all processes have the same number.

    Args:
        dataset: the data to validate, test or predict.
        batch_size: per process.
        trainer: the data module's trainer; None outside of Lightning: everything.
        arguments: further ones of ``DataLoader``.

    Raises:
        ValueError: if there are fewer examples than processes.
    """
    sampler = EachOnce(dataset, **_place(trainer))
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **with_workers(arguments, trainer))


class EachOnce(DistributedSampler[Any]):
    """Cuts 0 .. n - 1 into one run for each process, without repetition; lengths differ by at most 1.

    Args:
        dataset: has a length n.
        num_replicas: number of processes, at least 1.
        rank: of this one.

    Raises:
        ValueError: if n is below num_replicas (but for an empty dataset): a process without batches would leave the
            others waiting.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        assert isinstance(dataset, Sized)
        self.total_size = len(dataset)
        if 0 < self.total_size < num_replicas:
            raise ValueError(
                f"Invalid trainer.devices: {num_replicas} processes for {self.total_size} examples; each process "
                f"needs at least one: use fewer devices"
            )
        self._run = range(rank * self.total_size // num_replicas, (rank + 1) * self.total_size // num_replicas)
        self.num_samples = len(self._run)

    def __iter__(self) -> Iterator[int]:
        return iter(self._run)


def _place(trainer: L.Trainer | None) -> dict[str, Any]:
    """Among how many processes data are split, and which one this is; tensor-parallel processes share theirs."""
    return (trainer.distributed_sampler_kwargs if trainer else None) or {"num_replicas": 1, "rank": 0}


def with_workers(arguments: Mapping[str, Any], trainer: L.Trainer | None) -> dict[str, Any]:
    """Arguments of ``DataLoader``, and what suits them, where they do not say: workers stay for all epochs, and batches
    for a GPU come in pinned memory, from which they are copied faster.

    Args:
        arguments: num_workers and others.
        trainer: of the data module; None: no GPU.
    """
    on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
    return {"persistent_workers": arguments.get("num_workers", 0) > 0, "pin_memory": on_gpu} | dict(arguments)
