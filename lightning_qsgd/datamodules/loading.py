"""Data loaders that data modules share."""

import os
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


def check_at_least(values: Mapping[str, Any], **limits: int) -> None:
    """Check that arguments are not too small, for example by ``check_at_least(locals(), batch_size=1)``.

    Raises:
        ValueError: if a value is below its limit.
    """
    for name, least in limits.items():
        if values[name] < least:
            raise ValueError(f"Invalid {name}: {values[name]}; it must be at least {least}")


def train_loader(dataset: Dataset[Any], batch_size: int, trainer: L.Trainer | None, **arguments: Any) -> DataLoader:
    """A loader of training batches. Their order depends on the seed of ``seed_everything`` and on the epoch.

    Processes load disjoint parts of the data.

    Args:
        dataset: the training data.
        batch_size: examples per batch and process.
        trainer: the data module's trainer, which sets the epoch. If None, outside Lightning, call
            ``loader.sampler.set_epoch(epoch)`` yourself.
        arguments: further arguments of ``DataLoader``; see :func:`with_workers`.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # set by seed_everything
    sampler = DistributedSampler(dataset, **_place(trainer), shuffle=True, seed=seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **with_workers(arguments, trainer))


def evaluation_loader(
    dataset: Dataset[Any], batch_size: int, trainer: L.Trainer | None, **arguments: Any
) -> DataLoader:
    """A loader of evaluation batches, in order. Each example is in exactly one batch of one process.

    Lightning's default sampler repeats examples instead until all processes have the same number.

    Args:
        dataset: the data to validate, test or predict.
        batch_size: examples per batch and process.
        trainer: the data module's trainer, or None outside Lightning, for one process.
        arguments: further arguments of ``DataLoader``; see :func:`with_workers`.

    Raises:
        ValueError: if there are fewer examples than processes.
    """
    sampler = EachOnce(dataset, **_place(trainer))
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **with_workers(arguments, trainer))


class EachOnce(DistributedSampler[Any]):
    """Splits 0 .. n - 1 into one range for each process, without repetition. Lengths differ by at most 1.

    Args:
        dataset: a dataset of length n.
        num_replicas: number of processes, at least 1.
        rank: rank of this process.

    Raises:
        ValueError: if 0 < n < num_replicas: the other processes would wait forever for one without batches.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        assert isinstance(dataset, Sized)
        self.total_size = len(dataset)
        if 0 < self.total_size < num_replicas:
            raise ValueError(
                f"Invalid trainer.devices: {num_replicas} processes for {self.total_size} examples; each process "
                "needs at least one: use fewer devices"
            )
        self._run = range(rank * self.total_size // num_replicas, (rank + 1) * self.total_size // num_replicas)
        self.num_samples = len(self._run)

    def __iter__(self) -> Iterator[int]:
        return iter(self._run)


def _place(trainer: L.Trainer | None) -> dict[str, Any]:
    """Number of processes that split the data, and the rank of this one; tensor-parallel processes share a rank."""
    return (trainer.distributed_sampler_kwargs if trainer else None) or {"num_replicas": 1, "rank": 0}


def with_workers(arguments: Mapping[str, Any], trainer: L.Trainer | None) -> dict[str, Any]:
    """Add defaults to arguments of ``DataLoader``: persistent workers, and, for a GPU, pinned memory for faster copies.

    Args:
        arguments: num_workers and others, which override the defaults.
        trainer: the data module's trainer; None means no GPU.
    """
    on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
    return {"persistent_workers": arguments.get("num_workers", 0) > 0, "pin_memory": on_gpu} | dict(arguments)
