"""Rotations with which the superposition circuit computes sin(pi theta) to first order.

With zero rotations, the paper's circuit at depth 2 computes s = -1 + O(a^2) at small angles a = pi theta, because
H Ry(a) H = Ry(-a). The aligned rotations give s(0) = 0 and unit slope instead, so the circuit of Eq. 5 contains Eq. 2.
"""

import math
from collections.abc import Callable
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
    """The observables whose expectations are -s_k, for k = 0..n-1; see :func:`modulation_matrix`.

    Args:
        num_qubits: number of qubits n.
        decode_chain: whether a final chain of CNOTs is decoded. If so they are "Z0", "Z0Z1", "Z1Z2", ..., otherwise
            "Z0", "Z1", "Z2", ...
    """
    return [f"Z{k - 1}Z{k}" if decode_chain and k else f"Z{k}" for k in range(num_qubits)]


def modulation_matrix(num_qubits: int, decode_chain: bool) -> Tensor:
    """The matrix that maps outcome probabilities to s_k = P(x_k = 1) - P(x_k = 0), ``probabilities @ matrix``.

    Args:
        num_qubits: number of qubits n.
        decode_chain: whether to read x_k = y_k XOR y_(k-1) from the measured bits y, which undoes a final chain of
            CNOTs. If False, x = y.

    Returns:
        (2**n, n) float64, with entries +1 and -1.
    """
    return -expectation_matrix(modulation_observables(num_qubits, decode_chain), num_qubits)


@lru_cache
def aligned_rotations(num_qubits: int, depth: int, entanglement: Entanglement) -> tuple[float, ...]:
    """Weights of :func:`superposition_circuit` with which s(0) = 0, and ds_k/da_i = 1 if i = k and 0 otherwise.

    With "linear" entanglement, s is read after decoding the last chain of CNOTs. At depth 1 all rotations are 0, and
    s = sin(a). For 4 qubits and depth 2 the solution is known; for other sizes it is found by least squares on the
    simulator, from fixed starting points.

    Args:
        num_qubits: number of qubits, at least 1.
        depth: number of layers, at least 1.
        entanglement: "linear" or "none".

    Returns:
        (2 * depth - 1) * num_qubits angles, radians, in the order of the weights of the ansatz.

    Raises:
        ValueError: if no solution with residuals below 1e-6 is found.
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

    def in_numpy(function: Callable[[Tensor], Tensor]) -> Any:  # SciPy's stubs take no function for the Jacobian
        return lambda weights: function(torch.from_numpy(weights)).numpy()

    functions = in_numpy(residual), in_numpy(torch.func.jacrev(residual))
    rng = np.random.default_rng(0)
    best = math.inf
    for _ in range(STARTS):
        start = rng.integers(-2, 3, ansatz.num_weights) * (math.pi / 2) + rng.normal(0, 0.1, ansatz.num_weights)
        found = least_squares(functions[0], start, functions[1], xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=60)
        best = min(best, float(np.abs(found.fun).max()))
        if best < TOLERANCE:
            return tuple(float(angle) for angle in found.x)
    raise ValueError(
        f"No aligned rotations found for {num_qubits} qubits, depth {depth}, entanglement {entanglement!r} "
        f"(smallest residual {best:.1e}, above {TOLERANCE}); use depth=1, entanglement='none', or rotations='zero' "
        "or 'random' with center='zero'"
    )
