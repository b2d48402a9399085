"""s of some coordinates: their blocks of angles, asked of the perturbation.

n: coordinates of a block (num_qubits). A *slot* is an angle of a block: a coordinate, or padding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import flat, has_values, join
from lightning_qsgd.optim.perturbation import Perturbation


class Question:
    """The blocks of some coordinates, one after the other: what a perturbation is asked about.

    Args:
        pieces: the coordinates, in whole blocks.

    Attributes:
        layout: of each piece, (number of the parameter, coordinates, padding): what a perturbation is told.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self.layout = [(p.number, p.slots - p.padding, p.padding) for p in pieces]
        self.kept = not any(p.shared or p.param.shape != (p.size,) for p in pieces)  # all are views that stay valid
        self._values = self._slots() if self.kept else None
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
        """pi * theta of all slots, (blocks, n), float32, or float64 where any tensor is; 0 in padding."""
        theta = join(self._values or self._slots())
        theta = theta if theta.dtype == torch.float64 else theta.float()
        return theta.mul_(math.pi).view(-1, n)

    def own(self, s: Tensor) -> Tensor:
        """Of a value per slot, (slots,), those of the pieces' own coordinates, (sum of sizes,)."""
        return s if self._runs is None else torch.cat(s.split(self._runs)[1::3])


def ask(perturbation: Perturbation, question: Question, step: int) -> Tensor:
    """One call of a perturbation, outside of autocast, in float32 (float64 where any tensor is).

    Tensors without values (meta, fake) are not asked about: s is of their kind, so that memory can be planned.

    Args:
        perturbation: whom to ask.
        question: about which coordinates.
        step: number of the optimizer step, from 0.

    Returns:
        s of the question's own coordinates, (sum of sizes,), on the first one's device.

    Raises:
        ValueError: if the perturbation returns another shape than that of its angles.
    """
    perturbation.layout = question.layout
    angles = question.angles(perturbation.num_qubits)
    if not has_values(angles):
        return question.own(torch.empty_like(angles).view(-1))
    device = angles.device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        s = perturbation(angles, step=step)
    if s.shape != angles.shape:
        name = type(perturbation).__name__
        raise ValueError(f"{name} returned shape {tuple(s.shape)} for angles {tuple(angles.shape)}")
    return question.own(s.reshape(-1))


class AtOnce:
    """Asks for the pieces of all groups in one call, and keeps the question while the pieces stay the same."""

    def __init__(self) -> None:
        self._pieces: Mapping[int, Sequence[Piece]] | None = None
        self._question: Question | None = None

    def __call__(self, ask: Callable[[Question], Tensor], pieces: Mapping[int, Sequence[Piece]]) -> dict[int, Tensor]:
        """s of each group's coordinates, (sum of sizes,)."""
        if self._question is None or pieces is not self._pieces:
            self._pieces, self._question = pieces, Question([piece for part in pieces.values() for piece in part])
        values = ask(self._question)
        if not self._question.kept:
            self._pieces = self._question = None
        if len(pieces) == 1:
            return dict.fromkeys(pieces, values)
        totals = [sum(piece.size for piece in part) for part in pieces.values()]
        return dict(zip(pieces, values.split(totals), strict=True))


def in_order(s: Tensor) -> Callable[[Sequence[Piece]], Tensor]:
    """What gives s of one chunk after the other, from those of all."""
    left = s

    def take(chunk: Sequence[Piece]) -> Tensor:
        nonlocal left
        size = sum(piece.size for piece in chunk)
        values, left = left[:size], left[size:]
        return values.to(chunk[0].param.device)

    return take
