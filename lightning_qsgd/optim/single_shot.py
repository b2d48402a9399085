"""One shot of a CircuitPerturbation's circuit per block: measured bits, and the s that they have on average.

Shapes: B blocks, n qubits. x_k = 2 b_k - 1 with the measured bit b_k, so that E x = s.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation
from lightning_qsgd.optim.distributed import counted_from_rank_0


def single_shot(
    circuit: CircuitPerturbation, angles: Tensor, generator: torch.Generator, key: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Measure the circuit once for each block.

    Outcomes are drawn jointly from the series of all outcomes, clipped and renormalised. Without entanglement bits are
    independent and drawn one by one, which is the same. In live mode the circuits run, on rank 0, and one outcome is
    drawn from the frequencies of each: exactly one of its shots.

    Args:
        circuit: the circuit, prepared here if it is not; its ``center`` plays no part.
        angles: (B, n), float32 or float64.
        generator: a CPU generator, the source of what is drawn from the probabilities.
        key: numbers of at least 0 that decide the samplers' own noise in live mode.

    Returns:
        x, (B, n), -1 or 1; and s, (B, n), in [-1, 1], the mean of x under the probabilities that it was drawn from.

    Raises:
        ValueError: in live mode beyond ``max_circuits``.
    """
    circuit.prepare()
    surrogate = circuit.surrogate
    if circuit.mode == "surrogate" and not circuit.joint:
        from lightning_qsgd.quantum import LightConeSurrogate

        if isinstance(surrogate, LightConeSurrogate):
            p = surrogate(angles).clamp(0, 1)
            bits = _uniform(angles.shape, generator, angles) < p
            return bits.to(angles.dtype).mul_(2).sub_(1), 2 * p - 1
    p = _live(circuit, angles, key) if circuit.mode == "live" else surrogate.probabilities(angles)  # type: ignore
    matrix = circuit.matrix.to(p)  # (2**n, n), -1 or 1: each outcome's x
    u = _uniform((len(p), 1), generator, p)
    outcomes = (p.cumsum(-1) <= u).sum(-1).clamp(max=p.shape[-1] - 1)  # rounding may leave the sum below u
    return matrix[outcomes], p @ matrix


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)


def _live(circuit: CircuitPerturbation, angles: Tensor, key: tuple[int, ...]) -> Tensor:
    if len(angles) > circuit.max_circuits:
        raise ValueError(
            f"A live displacement would run {len(angles)} circuits, more than max_circuits={circuit.max_circuits}; "
            "use mode='surrogate', or raise max_circuits"
        )
    step = int(np.random.SeedSequence(key).generate_state(1)[0])

    def run() -> Tensor:
        return torch.from_numpy(circuit.measure(angles.cpu().numpy(), step))

    return counted_from_rank_0(circuit, run).to(angles)
