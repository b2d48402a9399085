"""The coordinates that a step touches, and the blocks of angles that a perturbation gets.

A *coordinate* is one number of a parameter; coordinates count in C order, whatever the tensor's strides are. A *piece*
is a run of neighbouring coordinates of one parameter. A *block* has n angles (n: num_qubits), one for each of its
*slots*; a slot is a coordinate or padding.
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
from torch.nn import Parameter

from lightning_qsgd.optim.param_groups import participates

#: Slots in a chunk: few enough for a CPU's cache, enough to keep an accelerator busy.
CHUNK = {"cpu": 2**18}
LARGE_CHUNK = 2**24
_NONE = torch.empty(0, device="cpu")


# ---- coordinates of many tensors as one flat tensor, and back


def has_values(tensor: Tensor) -> bool:
    """False on the meta device and under FakeTensorMode, where tensors have only shapes."""
    if tensor.device.type == "meta":
        return False
    if type(tensor) in (Tensor, Parameter):
        return True
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is None or not isinstance(tensor, module.FakeTensor)


def flat(tensor: Tensor, start: int, size: int) -> Tensor:
    """The coordinates [start, start + size), (size,): a view if the tensor is contiguous or has no others."""
    if tensor.shape == (size,):
        return tensor
    if tensor.is_contiguous():
        return tensor.as_strided((size,), (1,), tensor.storage_offset() + start if start else None)
    rows, before = _rows(tensor, start, size)
    return rows.reshape(-1)[before : before + size]


def put(tensor: Tensor, start: int, values: Tensor) -> None:
    """Set the coordinates from ``start`` on to flat ``values``, rounded to the tensor's dtype."""
    if tensor.is_contiguous():
        flat(tensor, start, len(values)).copy_(values)
    elif values is not tensor:
        rows, before = _rows(tensor, start, len(values))
        whole = rows.clone(memory_format=torch.contiguous_format).view(-1)
        whole[before : before + len(values)] = values.to(whole)
        rows.copy_(whole.view(rows.shape))


def _rows(tensor: Tensor, start: int, size: int) -> tuple[Tensor, int]:
    """The rows with some coordinates, and the number of other coordinates before these in the rows."""
    inner = tensor.numel() // tensor.shape[0]
    first = start // inner
    return tensor[first : -(-(start + size) // inner)], start - first * inner


def gather(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Copy the first ``sizes[i]`` coordinates of each tensor into one tensor.

    Args:
        tensors: tensors of any shape. Different dtypes are promoted; different devices give the first one's.
        sizes: number of coordinates of each, from 0 to its number of elements.

    Returns:
        (sum(sizes),).
    """
    return join([flat(t, 0, n) for t, n in zip(tensors, sizes, strict=True)])


def join(parts: list[Tensor]) -> Tensor:
    """Concatenate flat tensors on the first one's device."""
    device = parts[0].device
    return torch.cat([part.to(device) for part in parts] if any(part.device != device for part in parts) else parts)


def add(tensors: Sequence[Tensor], sizes: Sequence[int], values: Tensor) -> None:
    """Add flat ``values`` (sum(sizes),) to the first coordinates of each tensor in place, rounded to its dtype."""
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


def cuts(sizes: Sequence[int], block: int, limit: int) -> list[list[tuple[int, int, int]]]:
    """Cut successive tensors into chunks of about ``limit`` coordinates at the ends of blocks.

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


# ---- pieces and blocks


class Piece(NamedTuple):
    """Neighbouring coordinates of one parameter: [start, start + size) of those on this rank, in C order.

    ``before`` and ``after`` are values on other ranks that belong to its blocks; ``padding`` counts the slots after
    them.
    """

    number: int  # of the parameter, over all groups
    place: int  # of the parameter, among those of its group with a gradient
    param: Tensor  # on this rank; a flat view of its first coordinates if no others are needed
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
    """The blocks of successive pieces, for which a perturbation is evaluated.

    Args:
        pieces: the coordinates, in whole blocks.

    Attributes:
        layout: (number of the parameter, coordinates, padding) of each piece, as a perturbation gets it.
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
        """pi * theta of all slots, (B, n), float32, or float64 if any tensor is; 0 in padding."""
        theta = join(self._values or self._slots())
        theta = theta if theta.dtype == torch.float64 else theta.float()
        return theta.mul_(math.pi).view(-1, n)

    def own(self, s: Tensor) -> Tensor:
        """Select from values of all slots, (slots,), those of the pieces' own coordinates, (sum of sizes,)."""
        return s if self._runs is None else torch.cat(s.split(self._runs)[1::3])


def chunks(pieces: Sequence[Piece], n: int, limit: int | None = None) -> Iterator[list[Piece]]:
    """Cut pieces between blocks, and pack them into lists of at most ``limit`` slots, or n if that is more.

    A list has tensors of one device. Default limit: 2**18 on a CPU, 2**24 elsewhere.
    """
    for _, group in groupby(pieces, lambda piece: piece.param.device):
        alike = list(group)
        most = limit or CHUNK.get(alike[0].param.device.type, LARGE_CHUNK)
        for cut in cuts([piece.slots for piece in alike], n, most):
            yield [alike[i].part(first, length) for i, first, length in cut]


# ---- parameters that FSDP2 shards over ranks
#
# A DTensor is cut along its first dimension, so that each rank holds one run of its coordinates in C order. A block may
# straddle two runs, or more if they are short.


class Run(NamedTuple):
    """The coordinates [start, stop) of a parameter that are on this rank, and the ranks that hold the others."""

    start: int
    stop: int
    group: Any = None  # a ProcessGroup; None: nothing is elsewhere


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, without importing them."""
    if type(tensor) in (Tensor, Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor on this rank, which shares its memory; other tensors unchanged."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def refuse_unknown_sharding(param: Tensor) -> None:
    """Refuse parameters whose coordinates are unknown.

    Raises:
        ValueError: for FSDP1's flat parameters, and for DTensors that are sharded along another dimension than the
            first.
    """
    if getattr(param, "_fsdp_flattened", False) or type(param).__name__ == "FlatParameter":
        raise ValueError(
            "Invalid params: FSDP1 (FullyShardedDataParallel) flattens tensors, and the coordinates of each are lost; "
            "use FSDP2 (torch.distributed.fsdp.fully_shard; in Lightning: ModelParallelStrategy) or DDP"
        )
    if is_dtensor(param):
        placements = param.placements  # type: ignore[attr-defined]
        cuts = [p for p in placements if not p.is_replicate()]
        if len(cuts) > 1 or any(type(p).__name__ != "Shard" or p.dim != 0 for p in cuts):
            raise ValueError(
                f"Invalid params: a DTensor with placements {placements}; supported are Replicate and one Shard(0), as "
                "fully_shard makes them. Give that parameter to another optimizer"
            )


def run_of(param: Tensor) -> Run:
    """The coordinates of a parameter that are on this rank."""
    if is_dtensor(param):
        for dimension, placement in enumerate(param.placements):  # type: ignore[attr-defined]
            if placement.is_shard():
                mesh = param.device_mesh  # type: ignore[attr-defined]
                runs = _runs(param, mesh.size(dimension))
                start, stop = runs[mesh.get_local_rank(dimension)]
                return Run(start, stop, mesh.get_group(dimension))
    return Run(0, param.numel())


def _runs(param: Tensor, ranks: int) -> list[tuple[int, int]]:  # as torch.chunk cuts the first dimension
    rows = param.shape[0]
    inner, share = param.numel() // max(rows, 1), -(-rows // ranks)
    return [(min(r * share, rows) * inner, min((r + 1) * share, rows) * inner) for r in range(ranks)]


def elsewhere(
    params: Sequence[Tensor], runs: Sequence[Run], needs: Sequence[tuple[int, int]], reach: int
) -> list[tuple[Tensor, Tensor]]:
    """Get needed values from other ranks in one exchange. All ranks of a group call it together.

    Args:
        params: sharded parameters.
        runs: the run of each, from :func:`run_of`.
        needs: the needed coordinates [first, last) of each, at most ``reach`` from the start or the end of any rank's
            run.
        reach: number of values that a rank sends from each end of its runs.

    Returns:
        For each parameter the needed values before and after those on this rank; float32, or float64 if any parameter
        is.
    """
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32
    around: list[tuple[Tensor, Tensor]] = [(torch.empty(0, device="cpu"), torch.empty(0, device="cpu"))] * len(params)
    for group in dict.fromkeys(run.group for run in runs):  # on all ranks in the same order
        mine = [i for i, run in enumerate(runs) if run.group == group]
        ends = torch.stack([_ends(local(params[i]).flatten(), reach).to(dtype) for i in mine])  # (T, 2, reach)
        ranks, rank = torch.distributed.get_world_size(group), torch.distributed.get_rank(group)
        everywhere = [torch.empty_like(ends) for _ in range(ranks)]
        torch.distributed.all_gather(everywhere, ends, group=group)
        for k, i in enumerate(mine):
            first, last = needs[i]
            sides = ([ends.new_empty(0)], [ends.new_empty(0)])
            for r, (start, stop) in enumerate(_runs(params[i], ranks)):
                a, b = max(first, start), min(last, stop)
                if a < b and r != rank:
                    head, tail = everywhere[r][k]
                    values = head[a - start : b - start] if b - start <= reach else tail[reach - stop + a :][: b - a]
                    sides[r > rank].append(values)
            around[i] = (torch.cat(sides[0]), torch.cat(sides[1]))
    return around


def _ends(values: Tensor, reach: int) -> Tensor:  # (2, reach): the first, and the last, the latter up to the right
    ends = values.new_zeros(2, reach)
    n = min(len(values), reach)
    ends[0, :n], ends[1, reach - n :] = values[:n], values[len(values) - n :]
    return ends


# ---- the coordinates of a scope


class Touched(dict[int, list[Piece]]):
    """The touched coordinates of a step: by number of the group, one piece per parameter."""

    @cached_property
    def blocks(self) -> Blocks:
        """The blocks of all groups together."""
        return Blocks([piece for pieces in self.values() for piece in pieces])


class TouchedCoordinates:
    """Find the coordinates of a scope; repeated only if parameters have changed since the last step."""

    def __init__(self) -> None:
        self._key: Any = None
        self._touched = Touched()

    def __call__(self, groups: Sequence[dict[str, Any]], scope: str, n: int, *, whole: bool = False) -> Touched:
        """Find the touched coordinates. Parameters without gradient and groups without weight have none.

        Args:
            groups: the optimizer's parameter groups.
            scope: "first_of_tensor", "first_of_model" or "all".
            n: angles of a block.
            whole: gather whole sharded tensors instead of the ends of each run. Default: False.

        Raises:
            RuntimeError: for sparse or complex gradients.
        """
        key: list[Any] = [scope, n]
        key += [
            [_signature(p) for p in group["params"]] if participates(group) else len(group["params"])
            for group in groups
        ]
        if any(map(is_dtensor, (p for group in groups for p in group["params"]))):
            return _find(groups, scope, n, whole)  # values of other ranks change with each step
        if key != self._key:
            self._key, self._touched = key, _find(groups, scope, n, whole)
        return self._touched


def _signature(param: Tensor) -> Any:
    """The properties of a parameter that determine its touched coordinates."""
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
    """Reduce pieces of sharded parameters to the part on this rank, with the values around it."""
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
    """A flat view of the first coordinates; the tensor itself if it is not contiguous."""
    tensor = tensor.data  # a view of the parameter itself could not be swapped for another one
    return tensor.as_strided((size,), (1,)) if tensor.is_contiguous() else tensor
