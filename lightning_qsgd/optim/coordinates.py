"""Runs of coordinates of many tensors as one flat tensor, and back.

Coordinates count in C order, whatever the tensor's strides are.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors


def has_values(tensor: Tensor) -> bool:
    """False on the meta device and under FakeTensorMode, where tensors have shapes only."""
    if tensor.device.type == "meta":
        return False
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return True
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is None or not isinstance(tensor, module.FakeTensor)


def flat(tensor: Tensor, start: int, size: int) -> Tensor:
    """The coordinates [start, start + size): (size,), a view where the tensor is contiguous or has no others."""
    if tensor.shape == (size,):
        return tensor
    if tensor.is_contiguous():
        return tensor.as_strided((size,), (1,), tensor.storage_offset() + start if start else None)
    rows, before = _rows(tensor, start, size)
    return rows.reshape(-1)[before : before + size]


def put(tensor: Tensor, start: int, values: Tensor) -> None:
    """Set the coordinates from ``start`` on to flat ``values``, rounding to the tensor's dtype."""
    if tensor.is_contiguous():
        flat(tensor, start, len(values)).copy_(values)
    elif values is not tensor:
        rows, before = _rows(tensor, start, len(values))
        whole = rows.clone(memory_format=torch.contiguous_format).view(-1)
        whole[before : before + len(values)] = values.to(whole)
        rows.copy_(whole.view(rows.shape))


def _rows(tensor: Tensor, start: int, size: int) -> tuple[Tensor, int]:
    """The rows that hold some coordinates, and how many others come before those in them."""
    inner = tensor.numel() // tensor.shape[0]
    first = start // inner
    return tensor[first : -(-(start + size) // inner)], start - first * inner


def first(tensor: Tensor, size: int) -> Tensor:
    """A flat view of the first coordinates; the tensor itself where it is not contiguous."""
    tensor = tensor.data  # a view of the parameter itself could not be swapped for another one
    return tensor.as_strided((size,), (1,)) if tensor.is_contiguous() else tensor


def gather(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Copy the first ``sizes[i]`` coordinates of each tensor into one tensor.

    Args:
        tensors: any shapes; dtypes may differ and are promoted; devices may differ and go to the first one's.
        sizes: coordinates of each, from 0 to its number of elements.

    Returns:
        (sum(sizes),).
    """
    pairs = zip(tensors, sizes, strict=True)
    return join([t.as_strided((n,), (1,)) if t.is_contiguous() else flat(t, 0, n) for t, n in pairs])


def join(parts: list[Tensor]) -> Tensor:
    """A copy of flat tensors, one after the other, on the first one's device."""
    device = parts[0].device
    return torch.cat([part.to(device) for part in parts] if any(part.device != device for part in parts) else parts)


def add(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Add flat ``values`` (sum(sizes),) to the first coordinates of each tensor, in place, rounding to its dtype."""
    views = [t if t.shape == (n,) else flat(t, 0, n) for t, n in zip(tensors, sizes, strict=True)]
    parts = values.split(sizes)
    if any(t.device != values.device for t in tensors):
        parts = [part.to(t.device) for t, part in zip(tensors, parts, strict=True)]
    torch._foreach_add_(views, parts)  # pyright: ignore[reportPrivateImportUsage]
    for t, view in zip(tensors, views, strict=True):
        if not t.is_contiguous():
            put(t, 0, view)


def write(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Set the first coordinates of each tensor to flat ``values`` (sum(sizes),)."""
    for t, part in zip(tensors, values.split(sizes), strict=True):
        put(t, 0, part)


def alike(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one device and dtype together."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in params:
        groups.setdefault((p.device, p.dtype), []).append(p)
    return list(groups.values())


def cuts(sizes: Sequence[int], block: int, limit: int) -> list[list[tuple[int, int, int]]]:
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
    return [chunk for chunk in chunks if chunk]


def write_pieces(params: Sequence[Tensor], pieces: Sequence[tuple[int, int, int]], values: Tensor) -> None:
    """Set pieces of tensors to flat ``values``, in C order; rounds to the tensors' dtype."""
    whole = [params[number] for number, _, length in pieces if length == params[number].numel()]
    if len(whole) == len(pieces):
        torch._foreach_copy_(whole, _unflatten_dense_tensors(values, whole))  # pyright: ignore[reportPrivateImportUsage]
        return
    for (number, start, _), part in zip(pieces, values.split([length for *_, length in pieces]), strict=True):
        put(params[number], start, part)
