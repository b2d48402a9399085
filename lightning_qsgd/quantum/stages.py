"""A circuit as few stages, for the simulator: real gates, phases and permutations of the basis.

Every supported gate is, up to a global phase, a product of real orthogonal 2x2 matrices (RY, H, X, Y), diagonal ones
(RZ, P, Z, S, T, CZ, CP, RZZ) and permutations of basis states (CX, SWAP); RX(a) = RZ(-pi/2) RY(a) RZ(pi/2). A real
orthogonal 2x2 matrix is a rotation or a reflection, so that neighbours fuse by adding their angles. All angles are
linear in the parameters: a *form* is (constant, coefficient of each parameter).

Shapes: n qubits, P parameters. Basis state ``k`` has qubit ``q`` in bit ``q``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_qsgd.quantum.circuits import Ansatz, linear_form

Form = NDArray[np.float64]  # (1 + P,)

_QUARTERS = {"z": 4, "s": 2, "sdg": -2, "t": 1, "tdg": -1}  # gates that are RZ by so many quarters of pi
_HALF_TURN = {"h": (True, pi / 4), "x": (True, pi / 2), "y": (False, pi / 2)}  # reflection or rotation, and its angle
_IGNORED = ("barrier", "id", "delay")
SUPPORTED = (*_HALF_TURN, *_QUARTERS, "sx", "rx", "ry", "rz", "p", "rzz", "cp", "cx", "cz", "swap")


@dataclass
class RealStage:
    """One real 2x2 matrix on each of some qubits.

    ``gates[q]`` is (reflection, form of t): [[cos t, -sin t], [sin t, cos t]], or [[cos t, sin t], [sin t, -cos t]].
    """

    gates: dict[int, tuple[bool, Form]] = field(default_factory=dict)

    def add(self, qubit: int, reflection: bool, form: Form) -> None:
        """Multiply from the left."""
        if (before := self.gates.get(qubit)) is not None:
            form = form - before[1] if reflection else form + before[1]
            reflection = reflection != before[0]
        self.gates[qubit] = reflection, form


@dataclass
class PhaseStage:
    """exp(i * signs @ forms @ (1, parameters)): ``signs`` columns (2**n,), each with its form."""

    signs: list[NDArray[np.float64]] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)


@dataclass
class PermutationStage:
    """New amplitude k is old amplitude ``index[k]``; ``index`` is (2**n,)."""

    index: NDArray[np.int64]


Stage = RealStage | PhaseStage | PermutationStage
S = TypeVar("S", RealStage, PhaseStage, PermutationStage)


def compile_stages(ansatz: Ansatz, phases: bool = False) -> list[Stage]:
    """The circuit as stages, equal to it up to a global phase and, in the end, up to phases of basis states.

    The first stage is a :class:`RealStage` on every qubit, so that the state after it is a real product. With
    ``phases`` the stages equal the circuit, as Qiskit defines it, phases and all.

    Raises:
        ValueError: for a gate that is not supported, or an angle that is not linear in the parameters.
    """
    n = ansatz.num_qubits
    basis = np.arange(2**n)
    z = 1.0 - 2.0 * ((basis[:, None] >> np.arange(n)) & 1)  # (2**n, n): 1 at bit 0, -1 at bit 1

    def constant(value: float) -> Form:
        return linear_form(ansatz, value)

    first = RealStage({q: (False, constant(0)) for q in range(n)})
    stages: list[Stage] = [first]
    last = [0] * n  # the latest stage that touches a qubit
    whole = linear_form(ansatz, ansatz.circuit.global_phase)  # the phase that the stages leave out

    def stage_for(new: S, qubits: list[int]) -> S:  # the first of new's kind that may take a gate on these qubits
        earliest = max(last[q] for q in qubits)
        place = next((i for i in range(earliest, len(stages)) if isinstance(stages[i], type(new))), len(stages))
        if place == len(stages):
            stages.append(new)
        for q in qubits:
            last[q] = place
        found = stages[place]
        assert isinstance(found, type(new))
        return found

    def real(qubit: int, reflection: bool, form: Form) -> None:
        stage_for(RealStage(), [qubit]).add(qubit, reflection, form)

    def phase(qubits: list[int], sign: NDArray[np.float64], form: Form) -> None:
        stage = stage_for(PhaseStage(), qubits)
        stage.signs.append(sign)
        stage.forms.append(form)

    def permute(qubits: list[int], index: NDArray[np.int64]) -> None:
        stage = stage_for(PermutationStage(basis), qubits)
        stage.index = stage.index[index]

    for instruction in ansatz.circuit.data:
        name = instruction.operation.name
        if name in _IGNORED:
            continue
        if name not in SUPPORTED:
            raise ValueError(
                f"Gate {name!r} is not supported ({', '.join(SUPPORTED)}); decompose() or transpile() first"
            )
        qubits = [ansatz.circuit.find_bit(qubit).index for qubit in instruction.qubits]
        a, b = qubits[0], qubits[-1]
        form = constant(pi / 2)  # SX is RX(pi / 2)
        if instruction.operation.params:
            form = linear_form(ansatz, instruction.operation.params[0])
        if name in _HALF_TURN:
            reflection, angle = _HALF_TURN[name]
            real(a, reflection, constant(angle))
            whole = whole + constant(pi / 2 if name == "y" else 0)
        elif name == "ry":
            real(a, False, form / 2)
        elif name in ("rx", "sx"):
            phase([a], -z[:, a] / 2, constant(pi / 2))
            real(a, False, form / 2)
            phase([a], -z[:, a] / 2, constant(-pi / 2))
            whole = whole + constant(pi / 4 if name == "sx" else 0)
        elif name in _QUARTERS or name in ("rz", "p"):
            form = constant(_QUARTERS[name] * pi / 4) if name in _QUARTERS else form
            phase([a], -z[:, a] / 2, form)
            whole = whole + (0 if name == "rz" else form / 2)
        elif name == "rzz":
            phase(qubits, -z[:, a] * z[:, b] / 2, form)
        elif name in ("cp", "cz"):
            both = (1 - z[:, a]) * (1 - z[:, b]) / 4
            phase(qubits, both, form if name == "cp" else constant(pi))
        elif name == "cx":
            permute(qubits, basis ^ (((basis >> a) & 1) << b))
        else:  # swap
            differ = ((basis >> a) ^ (basis >> b)) & 1
            permute(qubits, basis ^ ((differ << a) | (differ << b)))
    if phases:
        stages.append(PhaseStage([np.ones(2**n)], [whole]))
    stages = _tidy(stages)
    return stages[:-1] if isinstance(stages[-1], PhaseStage) and not phases else stages


def _tidy(stages: list[Stage]) -> list[Stage]:
    """Move phases behind permutations, where they may meet other phases, and join neighbours."""
    out: list[Stage] = []
    for stage in stages:
        previous = out[-1] if out else None
        if isinstance(stage, PhaseStage) and isinstance(previous, PhaseStage):
            previous.signs += stage.signs
            previous.forms += stage.forms
        elif isinstance(stage, PermutationStage) and isinstance(previous, PhaseStage):
            previous.signs = [sign[stage.index] for sign in previous.signs]
            earlier = out[-2]  # the first stage is real
            if isinstance(earlier, PermutationStage):
                earlier.index = earlier.index[stage.index]
            else:
                out.insert(-1, stage)
        else:
            out.append(stage)
    return out
