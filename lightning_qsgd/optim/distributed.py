"""Rank 0's numbers on every rank of a torch.distributed run; plain values where there is none."""

from typing import Any

import torch
from torch import Tensor


def rank() -> int:
    """This process's rank; 0 outside of a distributed run."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's values of a CPU tensor that has the same shape and dtype on all ranks; called on all ranks."""
    if not _is_distributed():
        return tensor
    on_gpu = torch.distributed.get_backend() == "nccl"
    tensor = tensor.cuda() if on_gpu else tensor.contiguous()
    torch.distributed.broadcast(tensor, src=0)
    return tensor.cpu()


def broadcast_object(value: Any) -> Any:
    """Rank 0's object; called on all ranks. It travels as a pickle between the ranks of one run, never to disk."""
    if not _is_distributed():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
