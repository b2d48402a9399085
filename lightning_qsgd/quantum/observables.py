"""Named products of Pauli Z, such as "Z0" or "Z0Z2": their expectations are linear in the outcome probabilities."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor


def z_string(name: str, num_qubits: int) -> tuple[int, ...]:
    """The qubits of a name such as "Z0" or "Z0Z2", in ascending order.

    Raises:
        ValueError: for another form, a qubit named twice, or one that the circuit does not have.
    """
    qubits = tuple(sorted(int(q) for q in re.findall(r"Z(\d+)", name)))
    if not re.fullmatch(r"(Z\d+)+", name) or len(set(qubits)) != len(qubits) or qubits[-1] >= num_qubits:
        raise ValueError(
            f"Invalid observable: {name!r}; it must be a product of Z on different qubits 0 to {num_qubits - 1}, "
            "such as 'Z0' or 'Z0Z1'. To read X of a qubit, end the circuit with h on it and read its Z; for Y, with "
            "sdg and then h"
        )
    return qubits


def expectation_matrix(observables: Sequence[str], num_qubits: int) -> Tensor:
    """(2**n, observables) float64 of +-1: outcome probabilities times it are the expectations.

    Args:
        observables: names as for :func:`z_string`; bit k of an outcome is qubit k, and Z is +1 at bit 0.
        num_qubits: n.

    Raises:
        ValueError: for an invalid name, or none at all.
    """
    if not observables:
        raise ValueError("Invalid observables: none given; name at least one, such as 'Z0'")
    outcomes = torch.arange(2**num_qubits, device="cpu")
    columns = [sum((outcomes >> q) & 1 for q in z_string(name, num_qubits)) % 2 for name in observables]
    return torch.stack([1 - 2 * torch.as_tensor(column, device="cpu") for column in columns], -1).to(torch.float64)
