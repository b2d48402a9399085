"""Rotations that make the superposition circuit answer sin(pi theta) to first order.

With zero rotations the paper's circuit at depth 2 answers -1 + O(a^2) at small angles a = pi theta: H Ry(a) H = Ry(-a).
The aligned rotations instead give s(0) = 0 and unit slope, so that Eq. 5's circuit contains Eq. 2.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from lightning_qsgd.quantum.circuits import Entanglement, superposition_circuit
from lightning_qsgd.quantum.observables import expectation_matrix
from lightning_qsgd.quantum.simulator import CircuitSimulator

TOLERANCE = 1e-6
STARTS = 64


def modulation_observables(num_qubits: int, decode_chain: bool) -> list[str]:
    """The products of Z whose expectations are -s_k: of y_k, or of x_k = y_k XOR y_(k-1) where a chain is decoded."""
    return [f"Z{k - 1}Z{k}" if decode_chain and k else f"Z{k}" for k in range(num_qubits)]


def modulation_matrix(num_qubits: int, decode_chain: bool) -> Tensor:
    """(2**n, n) float64: outcome probabilities times this matrix are s_k = P(x_k = 1) - P(x_k = 0).

    Args:
        num_qubits: n.
        decode_chain: read x_k = y_k XOR y_(k-1) from the measured bits y, which undoes a final chain of CNOTs.
    """
    return -expectation_matrix(modulation_observables(num_qubits, decode_chain), num_qubits)


@lru_cache
def aligned_rotations(num_qubits: int, depth: int, entanglement: Entanglement) -> tuple[float, ...]:
    """Weights of ``superposition_circuit`` for which s(0) = 0 and ds_k/da_i = 1 if i = k, else 0.

    The last chain of CNOTs is decoded where there is one. Depth 1 needs no rotation: s = sin(a). 4 qubits at depth 2
    have a known solution; other sizes are solved by least squares on the simulator, from fixed starting points.

    Returns:
        (2 * depth - 1) * num_qubits angles in radians, in the order of the ansatz's weights.

    Raises:
        ValueError: if no solution to 1e-6 is found.
    """
    ansatz = superposition_circuit(num_qubits, depth, entanglement)
    if depth == 1:
        return (0.0,) * ansatz.num_weights
    if (num_qubits, depth, entanglement) == (4, 2, "linear"):
        half = math.pi / 2
        return (0, half, math.pi, 0, -half, 0, half, half, -half, 0, math.pi, 0)
    if entanglement == "none" and num_qubits > 1:  # a product circuit: the same angles for each qubit
        return tuple(angle for angle in aligned_rotations(1, depth, "none") for _ in range(num_qubits))
    simulate = CircuitSimulator(ansatz)
    matrix = modulation_matrix(num_qubits, decode_chain=entanglement == "linear")
    zero = torch.zeros(1, num_qubits, dtype=torch.float64)

    def modulation(angles: Tensor, weights: Tensor) -> Tensor:
        return (simulate(angles, weights) @ matrix)[0]

    def residual(weights: Tensor) -> Tensor:
        slope = torch.func.jacrev(modulation)(zero, weights)[:, 0]  # (n, n)
        return torch.cat([modulation(zero, weights), (slope - torch.eye(num_qubits, dtype=torch.float64)).flatten()])

    def numpy_residual(weights: np.ndarray) -> np.ndarray:
        return residual(torch.from_numpy(weights)).numpy()

    def numpy_jacobian(weights: np.ndarray) -> np.ndarray:
        return torch.func.jacrev(residual)(torch.from_numpy(weights)).numpy()

    jacobian: Any = numpy_jacobian  # SciPy's stubs know only names here
    rng = np.random.default_rng(0)
    best = math.inf
    for _ in range(STARTS):
        start = rng.integers(-2, 3, ansatz.num_weights) * (math.pi / 2) + rng.normal(0, 0.1, ansatz.num_weights)
        found = least_squares(numpy_residual, start, jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=60)
        best = min(best, float(np.abs(found.fun).max()))
        if best < TOLERANCE:
            return tuple(float(angle) for angle in found.x)
    raise ValueError(
        f"No aligned rotations found for {num_qubits} qubits, depth {depth}, entanglement {entanglement!r} "
        f"(closest residual {best:.1e}, wanted {TOLERANCE}); use depth=1, entanglement='none', or rotations='zero' "
        "or 'random' with center='zero'"
    )
