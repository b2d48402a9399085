"""Which coordinates a step touches, and the blocks of angles that a perturbation is asked about.

A *coordinate* is one number of a parameter; they count in C order, whatever the tensor's strides are. A *piece* is a
run of neighbouring coordinates of one parameter. A *block* has n angles (n: num_qubits), one for each of its *slots*: a
slot is a coordinate, or padding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors

from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.optim.sharding import elsewhere, is_dtensor, local, run_of

#: Slots of a chunk: few enough for a CPU's cache, enough to keep an accelerator busy.
CHUNK = {"cpu": 2**18}
LARGE_CHUNK = 2**24
_NONE = torch.empty(0, device="cpu")


# ---- coordinates of many tensors as one flat tensor, and back


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


def gather(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Copy the first ``sizes[i]`` coordinates of each tensor into one tensor.

    Args:
        tensors: any shapes; dtypes may differ and are promoted; devices may differ and go to the first one's.
        sizes: coordinates of each, from 0 to its number of elements.

    Returns:
        (sum(sizes),).
    """
    return join([flat(t, 0, n) for t, n in zip(tensors, sizes, strict=True)])


def join(parts: list[Tensor]) -> Tensor:
    """A copy of flat tensors, one after the other, on the first one's device."""
    device = parts[0].device
    return torch.cat([part.to(device) for part in parts] if any(part.device != device for part in parts) else parts)


def add(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Add flat ``values`` (sum(sizes),) to the first coordinates of each tensor, in place, rounding to its dtype."""
    views = [flat(t, 0, n) for t, n in zip(tensors, sizes, strict=True)]
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


# ---- pieces and blocks


class Piece(NamedTuple):
    """Neighbouring coordinates of one parameter: [start, start + size) of those on this rank, C order.

    ``before`` and ``after`` are values on other ranks that belong to its blocks, ``padding`` the slots after them.
    """

    number: int  # of the parameter, counted over all groups
    place: int  # of the parameter, among those of its group that have a gradient
    param: Tensor  # on this rank; a flat view of its first coordinates, where no others are needed
    start: int
    size: int
    padding: int = 0
    before: Tensor = _NONE
    after: Tensor = _NONE

    def part(self, first: int, slots: int) -> Piece:
        """The ``slots`` of it that begin with its slot ``first``; both are multiples of a block's length."""
        if slots == self.slots:
            return self
        lead, ends = len(self.before), first + slots == self.slots
        start, stop = max(first - lead, 0), min(first + slots - lead, self.size)
        return self._replace(
            start=self.start + start,
            size=max(stop - start, 0),
            padding=self.padding if ends else 0,
            before=_NONE if first else self.before,
            after=self.after if ends else _NONE,
        )

    @property
    def shared(self) -> bool:
        """Whether other ranks hold coordinates of its blocks."""
        return self.before is not _NONE or self.after is not _NONE

    @property
    def slots(self) -> int:
        """Slots that it takes, padding included."""
        around = len(self.before) + len(self.after) if self.shared else 0
        return self.size + self.padding + around


class Blocks:
    """The blocks of some pieces, one after the other: what a perturbation is asked about.

    Args:
        pieces: the coordinates, in whole blocks.

    Attributes:
        layout: of each piece, (number of the parameter, coordinates, padding): what a perturbation is told.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self.layout = [(p.number, p.slots - p.padding, p.padding) for p in pieces]
        stay = not any(p.shared or p.param.shape != (p.size,) for p in pieces)  # all are views, valid in later steps
        self._values = self._slots() if stay else None
        runs = [(len(p.before), p.size, len(p.after) + p.padding) for p in pieces]
        self._runs = [length for run in runs for length in run] if any(p.padding or p.shared for p in pieces) else None

    def _slots(self) -> list[Tensor]:
        values: list[Tensor] = []
        for piece in self._pieces:
            own = flat(piece.param, piece.start, piece.size)
            values += [piece.before, own, piece.after] if piece.shared else [own]
            if piece.padding:
                values.append(own.new_zeros(piece.padding))
        return values

    def angles(self, n: int) -> Tensor:
        """pi * theta of all slots, (B, n), float32, or float64 where any tensor is; 0 in padding."""
        theta = join(self._values or self._slots())
        theta = theta if theta.dtype == torch.float64 else theta.float()
        return theta.mul_(math.pi).view(-1, n)

    def own(self, s: Tensor) -> Tensor:
        """Of a value per slot, (slots,), those of the pieces' own coordinates, (sum of sizes,)."""
        return s if self._runs is None else torch.cat(s.split(self._runs)[1::3])


def chunks(pieces: Sequence[Piece], n: int, limit: int | None = None) -> Iterator[list[Piece]]:
    """Cut pieces between blocks, and pack them into lists of at most ``limit`` slots (n, if that is more) each.

    A list holds tensors of one device, which by default decides the limit: 2**18 on a CPU, 2**24 elsewhere.
    """
    for _, group in groupby(pieces, lambda piece: piece.param.device):
        alike = list(group)
        most = limit or CHUNK.get(alike[0].param.device.type, LARGE_CHUNK)
        for cut in cuts([piece.slots for piece in alike], n, most):
            yield [alike[i].part(first, length) for i, first, length in cut]


# ---- which ones a scope names


class Touched(dict[int, list[Piece]]):
    """The coordinates that a step touches: for the number of each group that has some, one piece per parameter."""

    @cached_property
    def blocks(self) -> Blocks:
        """Those of all groups together."""
        return Blocks([piece for pieces in self.values() for piece in pieces])


class TouchedCoordinates:
    """Finds the coordinates that a scope names; anew only where parameters have changed since the last step."""

    def __init__(self) -> None:
        self._key: Any = None
        self._touched = Touched()

    def __call__(self, groups: Sequence[dict[str, Any]], scope: str, n: int, *, whole: bool = False) -> Touched:
        """Parameters without gradient and groups without weight have none.

        Args:
            groups: the optimizer's parameter groups.
            scope: "first_of_tensor", "first_of_model" or "all".
            n: angles of a block.
            whole: of sharded parameters, gather whole tensors rather than the ends of each run.

        Raises:
            RuntimeError: for sparse or complex gradients.
        """
        key: list[Any] = [scope, n]
        key += [
            [_signature(p) for p in group["params"]] if participates(group) else len(group["params"])
            for group in groups
        ]
        if any(map(is_dtensor, (p for group in groups for p in group["params"]))):
            return _find(groups, scope, n, whole)  # what other ranks hold changes with each step
        if key != self._key:
            self._key, self._touched = key, _find(groups, scope, n, whole)
        return self._touched


def _signature(param: Tensor) -> Any:
    """What decides where a parameter's touched coordinates lie."""
    gradient = param.grad
    if gradient is None:
        return None
    if gradient.is_sparse:
        _refuse("sparse", param)
    if is_dtensor(param):
        return None
    try:
        place = param.data_ptr()
    except RuntimeError:  # a FakeTensor's
        place = id(param)
    return place, param.shape, param.stride()


def _refuse(kind: str, param: Tensor) -> NoReturn:
    raise RuntimeError(
        f"SuperpositionalGradientDescent does not support {kind} gradients (tensor of shape {tuple(param.shape)}); "
        "give that parameter to another optimizer"
    )


def _find(groups: Sequence[dict[str, Any]], scope: str, n: int, whole: bool) -> Touched:
    result = Touched()
    shards: list[tuple[list[Piece], int, Tensor, tuple[int, int]]] = []
    left, number = n, -1
    last: tuple[list[Piece], int] | None = None
    for k, group in enumerate(groups):
        if not participates(group):
            number += len(group["params"])
            continue
        pieces: list[Piece] = []
        place = -1
        for p in group["params"]:
            number += 1
            if p.grad is None:
                continue
            if p.is_complex():
                _refuse("complex", p)
            place += 1
            size = p.numel() if scope == "all" else min(p.numel(), n)
            if scope == "first_of_model":
                size = min(size, left)
                left -= size
            if not size:
                continue
            padding = 0 if scope == "first_of_model" else -size % n
            if is_dtensor(p):
                shards.append((pieces, len(pieces), p, (0, size)))
            here = local(p) if is_dtensor(p) or scope == "all" else _first(p, size)
            pieces.append(Piece(number, place, here, 0, size, padding))
            last = pieces, len(pieces) - 1
        if pieces:
            result[k] = pieces
    if scope == "first_of_model" and last is not None:  # tensors follow each other within the one block
        pieces, i = last
        pieces[i] = pieces[i]._replace(padding=left)
    if shards:
        _localize(shards, n, by_run=scope == "all" and not whole, whole=whole)
    return result


def _localize(
    shards: Sequence[tuple[list[Piece], int, Tensor, tuple[int, int]]], n: int, *, by_run: bool, whole: bool
) -> None:
    """Reduce pieces of sharded parameters to what is on this rank, with the values around it."""
    params = [p for *_, p, _ in shards]
    runs = [run_of(p) for p in params]
    needs = [need for *_, need in shards]
    if by_run:  # the blocks that this rank has a coordinate of
        needs = [
            (run.start - run.start % n, min(run.stop + -run.stop % n, last)) if run.start < run.stop else (0, 0)
            for run, (_, last) in zip(runs, needs, strict=True)
        ]
    cut = [i for i, run in enumerate(runs) if run.group is not None]
    around = dict.fromkeys(range(len(shards)), (_NONE, _NONE))
    if whole:
        for i in cut:
            values = params[i].full_tensor().flatten()  # type: ignore[attr-defined]
            last = needs[i][1]
            around[i] = values[: min(runs[i].start, last)].clone(), values[min(runs[i].stop, last) : last].clone()
    elif cut:
        sides = elsewhere([params[i] for i in cut], [runs[i] for i in cut], [needs[i] for i in cut], reach=n)
        around |= dict(zip(cut, sides, strict=True))
    for i, (pieces, position, _, _) in enumerate(shards):
        first, last = needs[i]
        size = max(min(runs[i].stop, last) - max(runs[i].start, first), 0)
        piece = pieces[position]
        padding = (-last % n if last == params[i].numel() else 0) if by_run else piece.padding
        before, after = around[i]
        pieces[position] = piece._replace(size=size, padding=padding, before=before, after=after)


def _first(tensor: Tensor, size: int) -> Tensor:
    """A flat view of the first coordinates; the tensor itself where it is not contiguous."""
    tensor = tensor.data  # a view of the parameter itself could not be swapped for another one
    return tensor.as_strided((size,), (1,)) if tensor.is_contiguous() else tensor
