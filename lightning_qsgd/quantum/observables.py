"""Observables by name: products of Paulis such as "Z0" or "X0Y2", weighted sums of them, and Qiskit's operators.

An expectation is linear in the outcome probabilities of a circuit that ends with a change of basis, which turns X and
Y of a qubit into Z. Paulis that agree on every qubit they share are read from one circuit (qubit-wise commuting).

Shapes: n qubits, T distinct Pauli products, O observables, K coefficients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from qiskit.quantum_info import Pauli, PauliList, SparsePauliOp
from torch import Tensor

from lightning_qsgd.quantum.torch_engine import Constants

#: An observable: a product by name, a weighted sum by names, or Qiskit's.
Observable = str | Mapping[str, float] | SparsePauliOp | Pauli
_KINDS = (str, Mapping, SparsePauliOp, Pauli)


def z_string(name: str, num_qubits: int) -> tuple[int, ...]:
    """The qubits of a name such as "Z0" or "Z0Z2", in ascending order.

    Raises:
        ValueError: if the name has another form, or a qubit occurs twice or does not exist.
    """
    paulis = pauli_string(name, num_qubits)
    if not paulis or set(paulis.values()) != {"Z"}:
        raise ValueError(
            f"Invalid observable: {name!r}; here it must be a product of Z, such as 'Z0' or 'Z0Z1'. To read X of a "
            "qubit, end the circuit with h on it and read its Z; for Y, with sdg and then h"
        )
    return tuple(paulis)


def pauli_string(name: str, num_qubits: int) -> dict[int, str]:
    """The Pauli, "X", "Y" or "Z", of each qubit in a name such as "X0Z2"; {} for "I", the identity.

    Raises:
        ValueError: if the name has another form, or a qubit occurs twice or does not exist.
    """
    found = re.findall(r"([XYZ])(\d+)", name)
    qubits = [int(q) for _, q in found]
    if name == "I":
        return {}
    if not re.fullmatch(r"([XYZ]\d+)+", name) or len(set(qubits)) != len(qubits) or max(qubits) >= num_qubits:
        label = ""
        if re.fullmatch(r"[IXYZ]+", name):
            paulis = [f"{pauli}{q}" for q, pauli in enumerate(reversed(name)) if pauli != "I"]
            label = f". As a label of Qiskit's, whose last letter is qubit 0, it is {''.join(paulis) or 'I'!r} here"
        raise ValueError(
            f"Invalid observable: {name!r}; it must be a product of X, Y and Z on different qubits 0 to "
            f"{num_qubits - 1}, such as 'Z0' or 'X0Y1', or 'I'{label}"
        )
    return {q: pauli for q, (pauli, _) in sorted(zip(qubits, found, strict=True))}


def expectation_matrix(observables: Sequence[str], num_qubits: int) -> Tensor:
    """The matrix that maps outcome probabilities to expectations of products of Z, ``probabilities @ matrix``.

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
    return _signs([z_string(name, num_qubits) for name in observables], num_qubits)


def _signs(strings: Sequence[Sequence[int]], num_qubits: int) -> Tensor:
    """(2**n, strings) float64: the product of Z of some qubits at each outcome."""
    outcomes = torch.arange(2**num_qubits, device="cpu")
    odd = [sum(((outcomes >> q) & 1 for q in qubits), torch.zeros_like(outcomes)) % 2 for qubits in strings]
    return torch.stack([1 - 2 * column for column in odd], -1).to(torch.float64)


class Basis(NamedTuple):
    """The Paulis that one circuit measures.

    Attributes:
        paulis: "X", "Y" or "Z" of each qubit; a qubit that is not named needs no change of basis.
        signs: (2**n, terms) float64: the value of each term at each outcome.
    """

    paulis: dict[int, str]
    signs: Tensor


class Measurement(Constants):
    """Observables as terms (distinct products of Paulis), and the circuits that measure them.

    Args:
        observables: one, or a list of at least one; see :class:`QuantumLayer`.
        num_qubits: number of qubits n.

    Attributes:
        names: of the observables, as text.
        bases: one for each circuit, in the order of their terms.
        coefficients: (K,) float64, of the terms of each observable, in the order in which they were given.
        places: (2, K): the term and the observable of each coefficient.
        num_terms: T.

    Raises:
        ValueError: if an observable is invalid, or there is none.
    """

    def __init__(self, observables: Observable | Sequence[Observable], num_qubits: int) -> None:
        if isinstance(observables, _KINDS):
            observables = [observables]
        if not isinstance(observables, Sequence) or not observables:
            raise ValueError(
                f"Invalid observables: {observables!r}; it must be a list of at least one, such as ['Z0'], "
                "[{'Z0Z1': 0.5, 'X0': 0.5}] or [SparsePauliOp('ZZ')]"
            )
        sums = [_sum_of(each, num_qubits) for each in observables]
        self.names = tuple(
            each if isinstance(each, str) else _text(terms) for each, terms in zip(observables, sums, strict=True)
        )
        labels = list(dict.fromkeys(label for terms in sums for label, _ in terms))
        groups = [list(map(str, group.to_labels())) for group in PauliList(labels).group_commuting(qubit_wise=True)]
        order = [label for group in groups for label in group]
        self.bases = [_basis(group, num_qubits) for group in groups]
        self.num_terms = len(order)
        self.coefficients = torch.tensor([c for terms in sums for _, c in terms], dtype=torch.float64)
        places = [(order.index(label), k) for k, terms in enumerate(sums) for label, _ in terms]
        self.places = torch.tensor(places).T
        self.reset_constants()

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> Any:
        """The signs of each basis, and those weighted by the coefficients as given."""
        weights = self._matrix(self.coefficients).split([basis.signs.shape[1] for basis in self.bases])
        signs = [basis.signs.to(device, dtype, copy=True) for basis in self.bases]
        folded = [basis.signs @ part for basis, part in zip(self.bases, weights, strict=True)]
        return signs, [each.to(device, dtype, copy=True) for each in folded]

    def read(self, probabilities: Sequence[Tensor], coefficients: Tensor | None = None) -> Tensor:
        """Compute expectations.

        Args:
            probabilities: (B, 2**n) of each basis, floating point.
            coefficients: (K,) in place of those given. Default: None.

        Returns:
            (B, O), in the dtype and on the device of the probabilities.
        """
        signs, folded = self.constants(probabilities[0].dtype, probabilities[0].device)
        if coefficients is None:
            parts = [p @ matrix for p, matrix in zip(probabilities, folded, strict=True)]
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        terms = torch.cat([p @ matrix for p, matrix in zip(probabilities, signs, strict=True)], -1)
        return terms @ self._matrix(coefficients.to(terms))

    def _matrix(self, coefficients: Tensor) -> Tensor:
        """(T, O), of coefficients (K,)."""
        matrix = coefficients.new_zeros(self.num_terms, len(self.names))
        return matrix.index_put(tuple(self.places.to(matrix.device)), coefficients, accumulate=True)


def _sum_of(observable: Any, num_qubits: int) -> list[tuple[str, float]]:
    """Qiskit's labels and their coefficients."""
    if isinstance(observable, str):
        return [(_label(pauli_string(observable, num_qubits), num_qubits), 1.0)]
    if isinstance(observable, Mapping):
        if not observable:
            raise ValueError("Invalid observable: a sum without terms; write for example {'Z0Z1': 0.5, 'X0': 0.5}")
        for name, c in observable.items():
            if isinstance(c, bool) or not isinstance(c, int | float) or not isfinite(c):
                raise ValueError(f"Invalid observable: the coefficient of {name!r} is {c!r}; it must be a number")
        return [(_label(pauli_string(str(name), num_qubits), num_qubits), float(c)) for name, c in observable.items()]
    if not isinstance(observable, SparsePauliOp | Pauli):
        raise ValueError(
            f"Invalid observable: {observable!r} ({type(observable).__name__}); it must be a name such as 'X0Z1', a "
            "sum such as {'Z0Z1': 0.5, 'X0': 0.5}, or Qiskit's SparsePauliOp"
        )
    operator = SparsePauliOp(observable).simplify()
    if operator.num_qubits != num_qubits:
        raise ValueError(
            f"Invalid observable: an operator of {operator.num_qubits} qubits; the circuit has {num_qubits}. Fill up "
            "with I, or place it by operator.apply_layout"
        )
    if len(operator.parameters):
        raise ValueError("Invalid observable: its coefficients hold parameters; bind them: operator.assign_parameters")
    coefficients: NDArray[np.complex128] = np.asarray(operator.coeffs, complex)
    if abs(coefficients.imag).max() > 1e-12:
        raise ValueError(
            f"Invalid observable: the coefficient {coefficients[abs(coefficients.imag).argmax()]} is not real, so that "
            "nothing can measure it"
        )
    return list(zip(operator.paulis.to_labels(), coefficients.real.tolist(), strict=True))


def _label(paulis: dict[int, str], num_qubits: int) -> str:
    return "".join(paulis.get(q, "I") for q in reversed(range(num_qubits)))


def _text(terms: list[tuple[str, float]]) -> str:
    names = ["".join(f"{pauli}{q}" for q, pauli in enumerate(reversed(label)) if pauli != "I") for label, _ in terms]
    return " + ".join(f"{c:g} {name or 'I'}" for name, (_, c) in zip(names, terms, strict=True)).replace("+ -", "- ")


def _basis(labels: list[str], num_qubits: int) -> Basis:
    strings = [{q: pauli for q, pauli in enumerate(reversed(label)) if pauli != "I"} for label in labels]
    paulis = {q: pauli for string in strings for q, pauli in string.items()}
    return Basis(paulis, _signs([tuple(string) for string in strings], num_qubits))
