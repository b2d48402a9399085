"""CircuitSimulator: exact outcome probabilities in torch, batched and differentiable.

Shapes: B batch, n qubits, G gates with an angle. Amplitude ``k`` belongs to the outcome whose bit ``q`` is qubit ``q``.
"""

import math

import torch
from torch import Tensor

from lightning_qsgd.quantum.circuits import Ansatz, linear_angle

_HALF = math.sqrt(0.5)
_FIXED = {
    "h": [[_HALF, _HALF], [_HALF, -_HALF]],
    "x": [[0, 1], [1, 0]],
    "y": [[0, -1j], [1j, 0]],
    "z": [[1, 0], [0, -1]],
    "s": [[1, 0], [0, 1j]],
    "sx": [[0.5 + 0.5j, 0.5 - 0.5j], [0.5 - 0.5j, 0.5 + 0.5j]],
}
_ROTATIONS = ("rx", "ry", "rz", "p")
_PERMUTATIONS = ("cx", "swap")
_IGNORED = ("barrier", "id")


class CircuitSimulator:
    """An ansatz as a torch function: gate by gate on the statevector, differentiable in inputs and weights.

    Gates: H, X, Y, Z, S, SX, RX, RY, RZ, P, CX, CZ, SWAP, with angles that are linear in the parameters.

    Args:
        ansatz: the circuit; at most 12 qubits.

    Raises:
        ValueError: for more qubits, another gate, or an angle that is not linear.
    """

    def __init__(self, ansatz: Ansatz) -> None:
        if ansatz.num_qubits > 12:
            raise ValueError(f"Invalid ansatz: {ansatz.num_qubits} qubits; the simulator takes at most 12")
        self.ansatz = ansatz
        columns = {p: i for i, p in enumerate([*ansatz.inputs, *ansatz.weights])}
        self._gates: list[tuple[str, list[int], int]] = []  # name, qubits, row of the angle (or -1)
        constants, rows = [], []
        for instruction in ansatz.circuit.data:
            name = instruction.operation.name
            if name in _IGNORED:
                continue
            qubits = [ansatz.circuit.find_bit(q).index for q in instruction.qubits]
            if name in _ROTATIONS:
                constant, coefficients = linear_angle(instruction.operation.params[0])
                row = [0.0] * len(columns)
                for parameter, coefficient in coefficients.items():
                    row[columns[parameter]] = coefficient
                constants.append(constant)
                rows.append(row)
                self._gates.append((name, qubits, len(rows) - 1))
            elif name in _FIXED or name in _PERMUTATIONS or name == "cz":
                self._gates.append((name, qubits, -1))
            else:
                supported = ", ".join([*_FIXED, *_ROTATIONS, *_PERMUTATIONS, "cz"])
                raise ValueError(f"Gate {name!r} is not supported ({supported}); decompose() or transpile() first")
        self._constants = torch.tensor(constants, dtype=torch.float64)  # (G,)
        self._slopes = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(columns))  # (G, inputs + weights)

    def __call__(self, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Outcome probabilities.

        Args:
            inputs: (B, num_inputs), float32 or float64, radians.
            weights: (num_weights,) or (B, num_weights), same dtype; None only where the ansatz has none.

        Returns:
            (B, 2**n), in the dtype and on the device of ``inputs``.

        Raises:
            ValueError: for a wrong shape.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.ansatz.num_inputs:
            raise ValueError(f"Invalid inputs: shape {tuple(inputs.shape)}; it must be (B, {self.ansatz.num_inputs})")
        weights = inputs.new_zeros(0) if weights is None else weights
        if weights.shape[-1] != self.ansatz.num_weights:
            raise ValueError(f"Invalid weights: shape {tuple(weights.shape)}; it must end in {self.ansatz.num_weights}")
        parameters = torch.cat([inputs, weights.expand(len(inputs), -1)], -1)
        angles = self._constants.to(inputs) + parameters @ self._slopes.to(inputs).T  # (B, G)
        n = self.ansatz.num_qubits
        state = torch.zeros(len(inputs), 2**n, dtype=torch.promote_types(inputs.dtype, torch.complex32))
        state = state.to(inputs.device)
        state[:, 0] = 1
        for name, qubits, row in self._gates:
            if name == "cz":
                both = [(torch.arange(2**n, device=state.device) >> q) & 1 for q in qubits]
                state = state * (1 - 2 * (both[0] & both[1]))
            elif name in _PERMUTATIONS:
                state = state[:, _permutation(name, qubits, n).to(state.device)]
            else:
                fixed = torch.tensor(_FIXED[name], dtype=torch.complex128) if row < 0 else None
                gate = _rotation(name, angles[:, row]) if fixed is None else fixed
                gate = gate.to(state).expand(len(inputs), 2, 2)
                low = 2 ** qubits[0]
                split = state.view(len(inputs), 2**n // (2 * low), 2, low)  # the qubit's bit on axis 2
                state = torch.einsum("bij,bajc->baic", gate, split).reshape(len(inputs), 2**n)
        return state.real**2 + state.imag**2


def _rotation(name: str, angle: Tensor) -> Tensor:  # (B,) -> (B, 2, 2)
    half, zero = angle / 2, torch.zeros_like(angle)
    cos, sin = torch.complex(half.cos(), zero), torch.complex(half.sin(), zero)
    if name == "ry":
        entries = [cos, -sin, sin, cos]
    elif name == "rx":
        entries = [cos, -1j * sin, -1j * sin, cos]
    else:  # rz and p differ by a global phase, which no probability shows
        phase = torch.complex(half.cos(), half.sin())
        entries = [phase.conj(), torch.zeros_like(phase), torch.zeros_like(phase), phase]
    return torch.stack(entries, -1).view(-1, 2, 2)


def _permutation(name: str, qubits: list[int], n: int) -> Tensor:  # cx and swap are their own inverses
    index, (a, b) = torch.arange(2**n), qubits
    if name == "cx":
        return index ^ (((index >> a) & 1) << b)
    differ = ((index >> a) ^ (index >> b)) & 1
    return index ^ ((differ << a) | (differ << b))
