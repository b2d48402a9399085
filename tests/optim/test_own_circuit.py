"""A circuit of the user's own as a perturbation: a subclass with another ``ansatz``."""

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BaseSamplerV2
from qiskit.quantum_info import Statevector

from lightning_qsgd.optim import CircuitPerturbation, FrozenTwin, SuperpositionalGradientDescent
from lightning_qsgd.quantum import Ansatz, ExactSampler
from tests.optim.common import ask, live, random_angles


def ring(num_qubits, fixed):
    """Rx of each angle, CZ around the ring, Ry of a fixed angle on each qubit."""
    angles, w, circuit = ParameterVector("a", num_qubits), ParameterVector("w", fixed), QuantumCircuit(num_qubits)
    for q in range(num_qubits):
        circuit.rx(angles[q], q)
    for q in range(num_qubits):
        circuit.cz(q, (q + 1) % num_qubits)
    for q in range(num_qubits):
        circuit.ry(w[0] if fixed else 0.7, q)
    return Ansatz(circuit, list(angles), list(w))


class Ring(CircuitPerturbation):
    @property
    def ansatz(self):
        return ring(self.num_qubits, 0)


class Forgotten(CircuitPerturbation):
    @property
    def ansatz(self):
        return ring(self.num_qubits, 1)


class Turned(Forgotten):
    weights = np.array([0.7])


class Listed(Forgotten):
    weights = [0.7]  # noqa: RUF012


class Dying(BaseSamplerV2):
    """Answers once."""

    def __init__(self):
        self.calls = 0

    def run(self, pubs, *, shots=None):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("the backend is gone")
        return ExactSampler().run(pubs, shots=shots)


def expected(kind, angles):
    """P(1) - P(0) of each qubit, from Qiskit's states."""
    ansatz = kind(num_qubits=angles.shape[1]).ansatz
    rows = []
    for row in angles.tolist():
        values = dict(zip((*ansatz.inputs, *ansatz.weights), [*row, 0.7], strict=False))
        state = Statevector(ansatz.circuit.assign_parameters(values))
        rows.append([np.subtract(*state.probabilities([q])[::-1]) for q in range(ansatz.num_qubits)])
    return torch.tensor(np.array(rows))


@pytest.mark.parametrize("options", [{}, {"rotations": "zero"}, {"shot_noise": 10**9}], ids=str)
@pytest.mark.parametrize("kind", [Ring, Turned, Listed])
def test_s_is_p1_minus_p0_of_each_qubit(kind, options):
    angles = random_angles(4, 3)
    torch.testing.assert_close(ask(kind(num_qubits=3, **options), angles), expected(kind, angles), atol=2e-4, rtol=0)
    if not options:
        torch.testing.assert_close(ask(live(kind)(num_qubits=3), angles), expected(kind, angles))


def test_a_chain_of_the_own_circuit_is_decoded_on_request():
    angles = random_angles(4, 3)
    plain, decoded = (ask(Ring(num_qubits=3, decode_chain=decode), angles) for decode in (False, True))
    torch.testing.assert_close(plain[:, 0], decoded[:, 0])
    assert (plain - decoded)[:, 1:].abs().max() > 0.1


def test_its_identity_names_what_decides_its_answers():
    class Other(Turned):
        weights = np.array([0.8])

    Other.__name__ = "Turned"
    identity = Turned(num_qubits=3).identity()
    assert identity.startswith("Turned(num_qubits=3, circuit=")
    assert not any(word in identity for word in ("depth", "entanglement", "rotations"))
    assert identity == Turned(num_qubits=3, rotations="zero").identity()
    assert identity != Other(num_qubits=3).identity()
    assert identity != Turned(num_qubits=3, center="zero").identity()
    assert identity == live(Turned)(num_qubits=3).identity()
    paper = "num_qubits=4, depth=2, entanglement=linear, rotations=aligned, decode_chain=True, center=None"
    assert CircuitPerturbation().identity() == f"CircuitPerturbation({paper})"  # checkpoints hold it


@pytest.mark.parametrize("center", [None, "zero", "odd"])
def test_when_its_device_fails_its_own_series_answers(center):
    angles = random_angles(4, 3)
    broken = live(Turned)(num_qubits=3, on_failure="series", sampler=Dying(), center=center)
    if center == "zero":
        broken.prepare()  # one circuit, s(0)
    else:
        ask(broken, angles, step=0)
    answered = ask(broken, angles, step=1)
    assert broken.fallback_steps == 1
    torch.testing.assert_close(answered, ask(Turned(num_qubits=3, center=center), angles), atol=1e-9, rtol=0)


def test_a_changed_answer_is_changed_once_when_the_device_fails():
    class Half(Turned):
        def forward(self, angles, *, step):
            return super().forward(angles, step=step) / 2

    angles, broken = random_angles(4, 3), live(Half)(num_qubits=3, on_failure="series", sampler=Dying())
    first = ask(broken, angles, step=0)
    torch.testing.assert_close(ask(broken, angles, step=1), first, atol=1e-9, rtol=0)


@pytest.mark.parametrize("control", [False, True])
def test_the_warning_of_a_constant_offers_no_rotations(control):
    weight = torch.nn.Parameter(torch.full((6,), 0.01))
    weight.grad = torch.ones(6)
    circuit = Ring(num_qubits=3)
    perturbation = FrozenTwin(circuit) if control else circuit
    optimizer = SuperpositionalGradientDescent([weight], perturbation=perturbation, scope="all")
    with pytest.warns(UserWarning, match=r"nearly constant.*center='zero'") as caught:
        optimizer.step()
    assert not any("rotations" in str(warning.message) for warning in caught)


def sized(qubits, inputs, weights=0, given=0):
    class Own(CircuitPerturbation):
        weights = np.zeros(given)

        @property
        def ansatz(self):
            a, w, circuit = ParameterVector("a", inputs), ParameterVector("w", self.count), QuantumCircuit(qubits)
            for k in range(inputs):
                circuit.ry(a[k], k % qubits)
            for k in range(self.count):
                circuit.rz(w[k], k % qubits)
            return Ansatz(circuit, list(a), list(w))

    Own.count = weights
    return Own


@pytest.mark.parametrize("of", [lambda kind: kind, live], ids=["series", "live"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2), "3 qubits and 2 inputs; with num_qubits=2 it needs 2 of each"),
        ((2, 1), "2 qubits and 1 inputs; with num_qubits=2"),
        ((2, 3), "2 qubits and 3 inputs; with num_qubits=2"),
        ((2, 2, 1), r"Invalid weights: 0; the circuit of (Live)?Own has 1: set weights = np.array"),
        ((2, 2, 1, 2), "Invalid weights: 2; the circuit of (Live)?Own has 1"),
    ],
)
def test_other_sizes_are_refused_when_it_is_built(sizes, message, of):
    with pytest.raises(ValueError, match=message):
        of(sized(*sizes))(num_qubits=2)


def test_sizes_that_are_known_later_are_refused_at_first_use():
    class Late(sized(3, 2)):
        def __init__(self, **options):
            super().__init__(**options)
            self.count = 0

    del Late.__bases__[0].count
    with pytest.raises(ValueError, match="3 qubits and 2 inputs"):
        ask(Late(num_qubits=2), random_angles(1, 2))
