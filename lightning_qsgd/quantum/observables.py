"""Products of Pauli Z by name, such as "Z0" or "Z0Z2". Their expectations are linear in the outcome probabilities."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor


def z_string(name: str, num_qubits: int) -> tuple[int, ...]:
    """The qubits of a name such as "Z0" or "Z0Z2", in ascending order.

    Raises:
        ValueError: if the name has another form, or a qubit occurs twice or does not exist.
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
    """The matrix that maps outcome probabilities to expectations, ``probabilities @ matrix``.

    Args:
        observables: at least one name for :func:`z_string`. Z is +1 if the qubit's bit is 0, -1 if it is 1.
        num_qubits: number of qubits n.

    Returns:
        (2**n, number of observables) float64, with entries +1 and -1.

    Raises:
        ValueError: if a name is invalid, or there is none.
    """
    if not observables:
        raise ValueError("Invalid observables: none given; name at least one, such as 'Z0'")
    outcomes = torch.arange(2**num_qubits, device="cpu")
    columns = [sum((outcomes >> q) & 1 for q in z_string(name, num_qubits)) % 2 for name in observables]
    return torch.stack([1 - 2 * torch.as_tensor(column, device="cpu") for column in columns], -1).to(torch.float64)
