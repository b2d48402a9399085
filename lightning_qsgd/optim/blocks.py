"""Which coordinates a step touches, cut into blocks of angles for the perturbation.

n: coordinates of a block (num_qubits). A *slot* is an angle of a block: a coordinate, or padding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import first
from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.optim.sharding import elsewhere, is_dtensor, local, run_of

_NONE = torch.empty(0)


class Piece(NamedTuple):
    """Neighbouring coordinates of one parameter: [start, start + size) of those on this rank, C order.

    ``before`` and ``after`` are values on other ranks that belong to its blocks, ``padding`` the slots after them.
    """

    number: int  # of the parameter, counted over all groups
    place: int  # of the parameter, among those of its group that have a gradient
    param: Tensor  # on this rank
    grad: Tensor
    start: int
    size: int
    padding: int = 0
    before: Tensor = _NONE
    after: Tensor = _NONE

    @property
    def shared(self) -> bool:
        """Whether other ranks hold coordinates of its blocks."""
        return self.before is not _NONE or self.after is not _NONE

    @property
    def slots(self) -> int:
        """Slots that it takes, padding included."""
        around = len(self.before) + len(self.after) if self.shared else 0
        return self.size + self.padding + around


def touched(groups: Sequence[dict[str, Any]], scope: str, n: int, *, whole: bool) -> dict[int, list[Piece]]:
    """The coordinates that a scope names, per group; parameters without gradient and groups without weight have none.

    Args:
        groups: the optimizer's parameter groups.
        scope: "first_of_tensor", "first_of_model" or "all".
        n: coordinates of a block.
        whole: with scope "all" and sharded parameters, gather whole tensors rather than the ends of each run.

    Returns:
        For the number of each group with touched coordinates, one piece per parameter.

    Raises:
        RuntimeError: for sparse or complex gradients.
    """
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
            if (gradient := p.grad) is None:
                continue
            place += 1
            _refuse(p, gradient)
            size = p.numel() if scope == "all" else min(p.numel(), n)
            if scope == "first_of_model":
                size = min(size, left)
                left -= size
            if not size:
                continue
            padding = 0 if scope == "first_of_model" else -size % n
            here, gradient_here = p, gradient
            if is_dtensor(p):
                shards.append((pieces, len(pieces), p, (0, size)))
                here, gradient_here = local(p), local(gradient)
            elif scope != "all":
                here, gradient_here = first(p, size), first(gradient, size)
            pieces.append(Piece(number, place, here, gradient_here, 0, size, padding))
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
            around[i] = values[: min(runs[i].start, last)], values[min(runs[i].stop, last) : last]
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


def _refuse(param: Tensor, gradient: Tensor) -> None:
    if gradient.is_sparse or param.is_complex():
        kind = "sparse" if gradient.is_sparse else "complex"
        raise RuntimeError(
            f"SuperpositionalGradientDescent does not support {kind} gradients (tensor of shape {tuple(param.shape)}); "
            "give that parameter to another optimizer"
        )


def chunks(pieces: Sequence[Piece], n: int, limit: int) -> Iterator[list[Piece]]:
    """Cut pieces between blocks, and pack them into lists of at most ``limit`` slots (n, if that is more) each.

    A list holds tensors of one device.
    """
    limit = max(limit - limit % n, n)
    packed: list[Piece] = []
    room = limit
    for piece in pieces:
        if packed and piece.param.device != packed[0].param.device:
            yield packed
            packed, room = [], limit
        position, slots, lead = 0, piece.slots, len(piece.before)
        while position < slots:
            end = min(position + room, slots)
            start, stop = max(position - lead, 0), max(min(end - lead, piece.size), 0)
            final = end == slots
            packed.append(
                piece._replace(
                    start=piece.start + start,
                    size=stop - start,
                    padding=piece.padding if final else 0,
                    before=_NONE if position else piece.before,
                    after=piece.after if final else _NONE,
                )
            )
            room -= end - position
            position = end
            if not room:
                yield packed
                packed, room = [], limit
    if packed:
        yield packed
