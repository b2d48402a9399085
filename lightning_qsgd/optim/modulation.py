"""s of some coordinates: their blocks of angles, asked of the perturbation.

n: coordinates of a block (num_qubits). A *slot* is an angle of a block: a coordinate, or padding.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import flat, join
from lightning_qsgd.optim.perturbation import Perturbation


def ask(perturbation: Perturbation, pieces: Sequence[Piece], step: int) -> Tensor:
    """One call of a perturbation, outside of autocast, in float32 (float64 where any tensor is).

    Args:
        perturbation: whom to ask.
        pieces: the coordinates, in whole blocks.
        step: number of the optimizer step, from 0.

    Returns:
        s of the pieces' own coordinates, (sum of sizes,), on the first one's device.

    Raises:
        ValueError: if the perturbation returns another shape than that of its angles.
    """
    perturbation.layout = [(p.number, p.slots - p.padding, p.padding) for p in pieces]
    angles = angles_of(pieces, perturbation.num_qubits)
    with torch.autocast(angles.device.type, enabled=False):
        s = perturbation(angles, step=step)
    if s.shape != angles.shape:
        name = type(perturbation).__name__
        raise ValueError(f"{name} returned shape {tuple(s.shape)} for angles {tuple(angles.shape)}")
    return own_coordinates(s.reshape(-1), pieces)


def ask_at_once(ask: Callable[[Sequence[Piece]], Tensor], pieces: Mapping[int, Sequence[Piece]]) -> dict[int, Tensor]:
    """Ask for the pieces of all groups in one call: s of each group's, (sum of sizes,)."""
    values = ask([piece for part in pieces.values() for piece in part])
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


def angles_of(pieces: Sequence[Piece], n: int) -> Tensor:
    """pi * theta of all slots, (blocks, n), float32, or float64 where any tensor is; 0 in padding."""
    values: list[Tensor] = []
    for piece in pieces:
        own = flat(piece.param, piece.start, piece.size)
        values += [piece.before, own, piece.after] if piece.shared else [own]
        if piece.padding:
            values.append(own.new_zeros(piece.padding))
    theta = join(values)
    theta = theta if theta.dtype == torch.float64 else theta.float()
    return theta.mul_(math.pi).view(-1, n)


def own_coordinates(s: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """Of a value per slot, (slots,), those of the pieces' own coordinates, (sum of sizes,)."""
    if len(s) == sum(piece.size for piece in pieces):
        return s
    runs = [(len(p.before), p.size, len(p.after) + p.padding) for p in pieces]
    return torch.cat(s.split([length for run in runs for length in run])[1::3])
