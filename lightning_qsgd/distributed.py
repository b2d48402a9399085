"""Numbers that the ranks of a torch.distributed run share; plain values where there is none.

Below all levels: imports nothing of this package.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Counter(Protocol):
    """What runs circuits and counts them, such as a Perturbation or a QuantumNetwork."""

    circuits: int
    shots: int
    seconds: float


def ranks() -> int:
    """Number of processes in this run, at least 1."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; 0 where it is alone."""
    return torch.distributed.get_rank() if ranks() > 1 else 0


def counted_from_rank_0(counter: Counter, compute: Callable[[], T]) -> T:
    """:func:`from_rank_0`, and rank 0's circuits, shots and seconds on all ranks: they are those of the whole run."""
    value, (counter.circuits, counter.shots, counter.seconds) = from_rank_0(
        lambda: (compute(), (counter.circuits, counter.shots, counter.seconds))
    )
    return value


def from_rank_0(compute: Callable[[], T]) -> T:
    """What ``compute`` returns or raises on rank 0, on all ranks; called on all ranks.

    It travels as a pickle between the ranks of one run, never to disk.

    Raises:
        RuntimeError: on the other ranks, with the text of rank 0's error.
    """
    if ranks() == 1:
        return compute()
    box: list[Any] = [None, None]  # the value, or the error's text
    failure = None
    if rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the other ranks would wait for ever
            failure, box[1] = error, str(error) or type(error).__name__
    torch.distributed.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise RuntimeError(box[1])
    return box[0]


def on_all_ranks(value: T) -> list[T]:
    """Each rank's value, in their order, on every rank; called on all ranks. It travels as a pickle, as above."""
    if ranks() == 1:
        return [value]
    found: list[Any] = [None] * ranks()
    torch.distributed.all_gather_object(found, value)
    return found


def leave() -> None:
    """End this process's part in a distributed run, once it has nothing more to ask of the others.

    Lightning does so for NCCL only; a process that ends beside gloo's threads is aborted now and then.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
