"""Rank 0's numbers on every rank of a torch.distributed run; plain values where there is none."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lightning_qsgd.optim.perturbation import Perturbation

T = TypeVar("T")


def counted_from_rank_0(counter: Perturbation, compute: Callable[[], T]) -> T:
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
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return compute()
    box: list[Any] = [None, None]  # the value, or the error's text
    failure = None
    if distributed.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the other ranks would wait for ever
            failure, box[1] = error, str(error) or type(error).__name__
    distributed.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise RuntimeError(box[1])
    return box[0]
