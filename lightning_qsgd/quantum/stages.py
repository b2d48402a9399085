"""A circuit as few stages for the simulator: real gates, phases, and permutations of the basis.

Every gate of the normal form is, up to a global phase, a product of real orthogonal 2x2 matrices (RY, H, X, Y),
diagonal ones (RZ, Z, S, T, CZ) and permutations of basis states (CX, SWAP); RX(a) = RZ(-pi/2) RY(a) RZ(pi/2). A real
orthogonal 2x2 matrix is a rotation or a reflection, so neighbours fuse by adding their angles. Permutations that cancel
vanish, and phases of one source add up: a controlled phase, decomposed into RZ and CX, becomes one phase again.

Shapes: n qubits, P parameters. Basis state ``k`` has qubit ``q`` in bit ``q``. A *form* is linear in the parameters:
(constant, coefficient of each); see angles.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import pi
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_qsgd.quantum.basis import IGNORED, Angle
from lightning_qsgd.quantum.normal_form import NormalForm

Form = NDArray[np.float64]  # (1 + P,)

QUARTERS = {"z": 4, "s": 2, "sdg": -2, "t": 1, "tdg": -1}  # gates that are RZ by this number of quarters of pi
HALF_TURN = {"h": (True, pi / 4), "x": (True, pi / 2), "y": (False, pi / 2)}  # reflection or rotation, and its angle
ROOTS = {"sx": pi / 2, "sxdg": -pi / 2}  # gates that are RX by this angle


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
    """exp(i * (constant + sum of signs[source] * source)), with a column (2**n,) for each source."""

    constant: NDArray[np.float64]
    signs: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, column: NDArray[np.float64], angle: Angle) -> None:
        """Multiply by exp(i * column * angle)."""
        self.constant = self.constant + column * angle.constant
        if angle.source >= 0:
            self.signs[angle.source] = self.signs.get(angle.source, 0.0) + column * angle.slope

    def join(self, later: PhaseStage) -> None:
        """Multiply by another stage."""
        self.constant = self.constant + later.constant
        for source, column in later.signs.items():
            self.signs[source] = self.signs.get(source, 0.0) + column

    def permute(self, index: NDArray[np.int64]) -> None:
        """Move behind a permutation."""
        self.constant = self.constant[index]
        self.signs = {source: column[index] for source, column in self.signs.items()}

    def tidied(self) -> PhaseStage | None:
        """The stage without columns that cancelled; None if no phase is left."""
        signs = {source: column for source, column in self.signs.items() if np.abs(column).max() > 1e-12}
        return PhaseStage(self.constant, signs) if signs or np.abs(self.constant).max() > 1e-12 else None


@dataclass
class PermutationStage:
    """New amplitude k is old amplitude ``index[k]``; ``index`` is (2**n,)."""

    index: NDArray[np.int64]


Stage = RealStage | PhaseStage | PermutationStage
S = TypeVar("S", RealStage, PhaseStage, PermutationStage)


def mixed_states(name: str) -> ValueError:
    """The error for an operation that makes mixed states."""
    return ValueError(
        f"The circuit has a {name}, which makes mixed states that the simulator cannot represent; run it on "
        "AerSampler, a fake backend or a device: QuantumNetwork(ansatz, AerSampler(shots=1024))"
    )


def compile_stages(normal_form: NormalForm, phases: bool = False) -> list[Stage]:
    """Compile a circuit to stages that give the same outcome probabilities.

    The first stage is a :class:`RealStage` on every qubit, so that the state after it is a real product. With
    ``phases``, the stages also give the amplitudes that Qiskit defines, including their phases.

    Raises:
        ValueError: if the circuit has a reset, which has no statevector.
    """
    n, form = normal_form.num_qubits, normal_form.form
    basis = np.arange(2**n)
    z = 1.0 - 2.0 * ((basis[:, None] >> np.arange(n)) & 1)  # (2**n, n): 1 at bit 0, -1 at bit 1
    ones, zeros = np.ones(2**n), np.zeros(2**n)
    first = RealStage({q: (False, form(Angle(0.0))) for q in range(n)})
    stages: list[Stage] = [first]
    last = [0] * n  # the latest stage that touches a qubit
    whole = PhaseStage(zeros)  # the global phase, which the other stages omit
    for angle in normal_form.phases:
        whole.add(ones, angle)

    def stage_for(new: S, qubits: tuple[int, ...]) -> S:  # the first of new's type that a gate on these qubits may join
        earliest = max(last[q] for q in qubits)
        place = next((i for i in range(earliest, len(stages)) if isinstance(stages[i], type(new))), len(stages))
        if place == len(stages):
            stages.append(new)
        for q in qubits:
            last[q] = place
        found = stages[place]
        assert isinstance(found, type(new))
        return found

    def real(qubit: int, reflection: bool, angle: Angle) -> None:
        stage_for(RealStage(), (qubit,)).add(qubit, reflection, form(angle))

    def phase(qubits: tuple[int, ...], column: NDArray[np.float64], angle: Angle) -> None:
        stage_for(PhaseStage(zeros), qubits).add(column, angle)

    def permute(qubits: tuple[int, ...], index: NDArray[np.int64]) -> None:
        stage = stage_for(PermutationStage(basis), qubits)
        stage.index = stage.index[index]

    for name, qubits, angle, _ in normal_form.gates:
        if name in IGNORED:
            continue
        a, b = qubits[0], qubits[-1]
        if name in HALF_TURN:
            reflection, turn = HALF_TURN[name]
            real(a, reflection, Angle(turn))
            whole.add(ones, Angle(pi / 2 if name == "y" else 0.0))
        elif name == "ry":
            assert angle is not None
            real(a, False, angle.scaled(0.5))
        elif name == "rx" or name in ROOTS:
            angle = angle or Angle(ROOTS[name])
            phase(qubits, -z[:, a] / 2, Angle(pi / 2))
            real(a, False, angle.scaled(0.5))
            phase(qubits, -z[:, a] / 2, Angle(-pi / 2))
            whole.add(ones, Angle(ROOTS.get(name, 0.0) / 2))
        elif name in QUARTERS or name == "rz":
            angle = angle or Angle(QUARTERS[name] * pi / 4)
            phase(qubits, -z[:, a] / 2, angle)
            whole.add(ones, Angle(0.0) if name == "rz" else angle.scaled(0.5))
        elif name == "cz":
            phase(qubits, (1 - z[:, a]) * (1 - z[:, b]) / 4, Angle(pi))
        elif name == "cx":
            permute(qubits, basis ^ (((basis >> a) & 1) << b))
        elif name == "swap":
            differ = ((basis >> a) ^ (basis >> b)) & 1
            permute(qubits, basis ^ ((differ << a) | (differ << b)))
        else:
            raise mixed_states(name)
    stages = _tidy(stages)
    if phases:
        if isinstance(latest := stages[-1], PhaseStage):
            whole.join(latest)
            stages.pop()
        return [*stages, whole]
    return stages[:-1] if isinstance(stages[-1], PhaseStage) else stages


def _tidy(stages: list[Stage]) -> list[Stage]:
    """Move phases behind permutations, where they may meet other phases; join neighbours; remove what cancels.

    Between two real stages there is then at most one permutation, and at most one stage of phases after it.
    """
    out: list[Stage] = []

    def close() -> None:
        """Remove what cancelled since the latest real stage."""
        phases = None
        if isinstance(latest := out[-1], PhaseStage):
            out.pop()
            phases = latest.tidied()
        if isinstance(latest := out[-1], PermutationStage) and (latest.index == np.arange(len(latest.index))).all():
            out.pop()
        if phases is not None:
            out.append(phases)

    for stage in stages:
        if isinstance(stage, RealStage):
            if out:
                close()
            if out and isinstance(latest := out[-1], RealStage):
                for qubit, (reflection, form) in stage.gates.items():
                    latest.add(qubit, reflection, form)
            else:
                out.append(stage)
            continue
        if isinstance(latest := out[-1], RealStage) and len(out) > 1:  # the first one is on every qubit
            latest.gates = {q: gate for q, gate in latest.gates.items() if gate[0] or gate[1].any()}
            if not latest.gates:
                out.pop()
                latest = out[-1]
        if isinstance(stage, PhaseStage):
            if isinstance(latest, PhaseStage):
                latest.join(stage)
            else:
                out.append(stage)
            continue
        if isinstance(latest, PhaseStage):
            out.pop()
            latest.permute(stage.index)
        if isinstance(before := out[-1], PermutationStage):
            before.index = before.index[stage.index]
        else:
            out.append(stage)
        if isinstance(latest, PhaseStage):
            out.append(latest)
    close()
    return out
