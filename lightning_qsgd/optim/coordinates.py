"""Coordinates of many tensors as one flat tensor, and back: the first of each, or all of them in chunks.

Coordinates are counted in C order, whatever the tensor's strides are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors


def gather(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Copy the first ``sizes[i]`` coordinates of each tensor into one tensor.

    Args:
        tensors: any shapes; dtypes may differ and are promoted; devices may differ and go to the first one's.
        sizes: coordinates of each, from 1 to its number of elements.

    Returns:
        (sum(sizes),).
    """
    device = tensors[0].device
    firsts = [
        _first(t, n) if t.device == device else _first(t, n).to(device) for t, n in zip(tensors, sizes, strict=True)
    ]
    return torch.cat(firsts)


def add(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Add flat ``values`` (sum(sizes),) to the first coordinates of each tensor, in place, rounding to its dtype."""
    parts = values.split(list(sizes))
    views, changes = [], []
    for t, n, part in zip(tensors, sizes, parts, strict=True):
        part = part if part.device == t.device else part.to(t.device)
        if t.is_contiguous():
            views.append(_first(t, n))
            changes.append(part)
        else:
            t[_index(t, n)] += part.to(t.dtype)
    if views:
        torch._foreach_add_(views, changes)  # pyright: ignore[reportPrivateImportUsage]


def write(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Set the first coordinates of each tensor to flat ``values`` (sum(sizes),)."""
    for t, n, part in zip(tensors, sizes, values.split(list(sizes)), strict=True):
        if t.is_contiguous():
            _first(t, n).copy_(part)
        else:
            t[_index(t, n)] = part.to(t)


def alike(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one device and dtype together."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in params:
        groups.setdefault((p.device, p.dtype), []).append(p)
    return list(groups.values())


def chunks(sizes: Sequence[int], block: int, limit: int) -> list[list[tuple[int, int, int]]]:
    """Cut tensors, one after the other, into chunks of about ``limit`` coordinates, at ends of blocks.

    Returns:
        For each chunk its pieces: (number of the tensor, first coordinate, coordinates).
    """
    chunks: list[list[tuple[int, int, int]]] = [[]]
    limit = max(limit // block, 1) * block
    left = limit
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            if left < block:
                chunks.append([])
                left = limit
            length = min(size - start, left // block * block)
            chunks[-1].append((number, start, length))
            start += length
            left -= -(-length // block) * block
    return chunks


def write_pieces(params: Sequence[Tensor], pieces: Sequence[tuple[int, int, int]], values: Tensor) -> None:
    """Set pieces of tensors to flat ``values``, in C order; rounds to the tensors' dtype."""
    whole = [params[number] for number, _, length in pieces if length == params[number].numel()]
    if len(whole) == len(pieces):
        torch._foreach_copy_(whole, _unflatten_dense_tensors(values, whole))  # pyright: ignore[reportPrivateImportUsage]
        return
    for (number, start, length), part in zip(pieces, values.split([length for *_, length in pieces]), strict=True):
        p = params[number]
        if p.is_contiguous():
            p.view(-1)[start : start + length].copy_(part)
        else:
            p[torch.unravel_index(torch.arange(start, start + length, device=p.device), p.shape)] = part.to(p.dtype)


def _first(tensor: Tensor, size: int) -> Tensor:  # (size,), a view where the tensor is contiguous
    return tensor.as_strided((size,), (1,)) if tensor.is_contiguous() else tensor[_index(tensor, size)]


def _index(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    return torch.unravel_index(torch.arange(size, device=tensor.device), tensor.shape)
