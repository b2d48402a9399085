"""Which coordinates a step touches, cut into blocks of angles for the perturbation.

n: coordinates of a block (num_qubits). A *slot* is an angle of a block: a coordinate, or padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import cuts
from lightning_qsgd.optim.coordinates import first as first_of
from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.optim.sharding import elsewhere, is_dtensor, local, run_of

#: Slots of a chunk: few enough for a CPU's cache, enough to keep an accelerator busy.
CHUNK = {"cpu": 2**18}
LARGE_CHUNK = 2**24
_NONE = torch.empty(0, device="cpu")


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


class TouchedCoordinates:
    """Finds the coordinates that a scope names; anew only where parameters have changed since the last step."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pieces: dict[int, list[Piece]] = {}

    def __call__(
        self, groups: Sequence[dict[str, Any]], scope: str, n: int, *, whole: bool = False
    ) -> dict[int, list[Piece]]:
        """Parameters without gradient and groups without weight have none.

        Args:
            groups: the optimizer's parameter groups.
            scope: "first_of_tensor", "first_of_model" or "all".
            n: coordinates of a block.
            whole: of sharded parameters, gather whole tensors rather than the ends of each run.

        Returns:
            For the number of each group with touched coordinates, one piece per parameter.

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
            self._key, self._pieces = key, _find(groups, scope, n, whole)
        return self._pieces


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


def _find(groups: Sequence[dict[str, Any]], scope: str, n: int, whole: bool) -> dict[int, list[Piece]]:
    result: dict[int, list[Piece]] = {}
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
            here = local(p) if is_dtensor(p) or scope == "all" else first_of(p, size)
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


def chunks(pieces: Sequence[Piece], n: int, limit: int | None = None) -> Iterator[list[Piece]]:
    """Cut pieces between blocks, and pack them into lists of at most ``limit`` slots (n, if that is more) each.

    A list holds tensors of one device, which by default decides the limit: 2**18 on a CPU, 2**24 elsewhere.
    """
    for _, group in groupby(pieces, lambda piece: piece.param.device):
        alike = list(group)
        most = limit or CHUNK.get(alike[0].param.device.type, LARGE_CHUNK)
        for cut in cuts([piece.slots for piece in alike], n, most):
            yield [alike[i].part(first, length) for i, first, length in cut]
