"""One shot of a CircuitPerturbation's circuit per block: measured bits, and what they are on average.

Shapes: B blocks, n qubits. E[2 b_k - 1] = s_k.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation


def single_shot(
    circuit: CircuitPerturbation, angles: Tensor, rng: np.random.Generator, key: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Measure the circuit once for each block.

    Outcomes are drawn jointly from the series of all outcomes, clipped and renormalised. Without entanglement bits are
    independent and drawn one by one, which is the same. In live mode the circuits run, on rank 0, and one outcome is
    drawn from the frequencies of each: exactly one of its shots.

    Args:
        circuit: the circuit, prepared here if it is not; its ``center`` plays no part.
        angles: (B, n), float32 or float64.
        rng: what the draws from the probabilities are made of.
        key: numbers of at least 0 that decide the samplers' own noise in live mode.

    Returns:
        b, (B, n), 0 or 1, in the dtype of ``angles``; and its mean, (B, n), under the probabilities it was drawn from.

    Raises:
        ValueError: in live mode beyond ``max_circuits``.
    """
    circuit.prepare()
    surrogate = circuit.surrogate
    if circuit.mode == "surrogate" and not circuit.joint:
        from lightning_qsgd.quantum import LightConeSurrogate

        if isinstance(surrogate, LightConeSurrogate):
            p = surrogate(angles).clamp_(0, 1)
            return _uniform(angles.shape, rng, angles).lt_(p), p
    p = _live(circuit, angles, key) if circuit.mode == "live" else surrogate.probabilities(angles)  # type: ignore
    bits = ((1 + circuit.matrix) / 2).to(p)  # (2**n, n), of each outcome
    u = _uniform((len(p), 1), rng, p)
    outcomes = (p.cumsum(-1) <= u).sum(-1).clamp(max=p.shape[-1] - 1)  # rounding may leave the sum below u
    return bits[outcomes], p @ bits


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, like: Tensor) -> Tensor:
    dtype = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(rng.random(shape, dtype)).to(like.device)


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
