"""Values that the ranks of a torch.distributed run share; without such a run they are plain values.

This module is below all levels and imports nothing of this package.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Counter(Protocol):
    """An object that runs circuits and counts them, such as a Perturbation or a QuantumNetwork."""

    circuits: int
    shots: int
    seconds: float


def ranks() -> int:
    """Number of processes of the run, at least 1."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if ranks() > 1 else 0


def counted_from_rank_0(counter: Counter, compute: Callable[[], T]) -> T:
    """Call :func:`from_rank_0`, and copy rank 0's circuits, shots and seconds to the counters of all ranks."""
    value, (counter.circuits, counter.shots, counter.seconds) = from_rank_0(
        lambda: (compute(), (counter.circuits, counter.shots, counter.seconds))
    )
    return value


def from_rank_0(compute: Callable[[], T]) -> T:
    """Call ``compute`` on rank 0, and return its result on all ranks. All ranks call this function.

    The result is pickled and sent to the other ranks; it is never written to disk.

    Raises:
        RuntimeError: on the other ranks if ``compute`` raises an error, with its text. Rank 0 raises the error itself.
    """
    if ranks() == 1:
        return compute()
    box: list[Any] = [None, None]  # the value, or the error's text
    failure = None
    if rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # otherwise the other ranks wait forever
            failure, box[1] = error, str(error) or type(error).__name__
    torch.distributed.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise RuntimeError(box[1])
    return box[0]


def on_all_ranks(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on each rank. All ranks call it; values are pickled."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    torch.distributed.all_gather_object(found, value)
    return found


def leave() -> None:
    """Leave a distributed run, once this process needs nothing more from the others.

    Lightning does so for NCCL only; with gloo, a process that ends while its threads run is sometimes aborted.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
