"""Any circuit is the same on every engine: simulator, exact network, Aer, a device; and its gradients are right."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from qiskit.circuit.library import PhaseGate, RXGate, SGate
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from lightning_qsgd.quantum import AerSampler, Ansatz, CircuitSimulator, QuantumNetwork, basis
from tests.quantum.any_circuit import KINDS, cases, group, used

SHOTS = 4000


class NoiselessManila(AerSampler):
    """The couplings and basis gates of a device, without its noise."""

    def _build(self):
        return AerSimulator.from_backend(FakeManilaV2(), noise_model=None, max_parallel_threads=1)


def check_exact(case, seed):
    ansatz = Ansatz(case.circuit, case.inputs, case.weights)
    assert ansatz.num_qubits == 4
    inputs, weights = case.values(seed)
    truth = case.probabilities(inputs, weights)
    simulate = CircuitSimulator(ansatz)
    np.testing.assert_allclose(simulate(torch.from_numpy(inputs), torch.from_numpy(weights)), truth, atol=1e-10)
    return ansatz, simulate, truth


def check_network(ansatz, simulate, case, truth, seed):
    inputs, weights = case.values(seed)
    x, w = torch.from_numpy(inputs).float(), torch.from_numpy(weights).float()
    np.testing.assert_allclose(simulate(x, w), truth, atol=1e-5)
    network = QuantumNetwork(ansatz)
    np.testing.assert_allclose(network.probabilities(inputs, weights), truth, atol=1e-10)
    return network


def check_gradients(case, simulate, seed, network=None):
    inputs, weights = case.values(seed)
    (row,), step = inputs[:1], 1e-5
    by_inputs, by_weights = torch.func.jacrev(lambda x, w: simulate(x[None], w)[0], argnums=(0, 1))(
        torch.from_numpy(row), torch.from_numpy(weights)
    )
    exact = torch.cat([by_inputs, by_weights], 1).numpy()
    point, direction = np.concatenate([row, weights]), np.random.default_rng(seed).normal(size=4)
    plus, minus = (
        case.probabilities([moved[:2]], moved[2:])[0] for moved in (point + step * direction, point - step * direction)
    )
    np.testing.assert_allclose(exact @ direction, (plus - minus) / (2 * step), atol=1e-6)
    if network is not None:
        shifted = np.concatenate(network.jacobian([row], weights), -1)[0]
        np.testing.assert_allclose(shifted, exact, atol=1e-9)


def check_shots(ansatz, sampler, case, truth, seed):
    frequencies = QuantumNetwork(ansatz, sampler).probabilities(*case.values(seed))
    tolerance = 6 * np.sqrt(truth * (1 - truth) / SHOTS) + 6 / SHOTS
    assert (np.abs(frequencies - truth) <= tolerance).all()


def check(case, seed, engine):
    ansatz, simulate, truth = check_exact(case, seed)
    network = None if engine == "simulator" else check_network(ansatz, simulate, case, truth, seed)
    if engine == "gradient":
        check_gradients(case, simulate, seed)
    elif engine == "shifts":
        check_gradients(case, simulate, seed, network)
    elif engine == "aer":
        check_shots(ansatz, AerSampler(SHOTS), case, truth, seed)
    elif engine == "device":
        check_shots(ansatz, NoiselessManila(SHOTS), case, truth, seed)


ENGINES = ["exact", "exact", "exact", "exact", "gradient", "shifts", "aer", "device"]


def check_many(examples, kinds_of_engines=ENGINES):
    """Circuits of each group of gates, so many each; stops at the first that is wrong."""
    options = {"derandomize": True, "database": None, "deadline": None, "report_multiple_bugs": False}
    limits = settings(
        max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck), **options
    )
    used.clear()
    for number in range(20):
        strategies = cases(group(number)), st.integers(0, 2**31), st.sampled_from(kinds_of_engines)
        limits(given(*strategies)(check))()
    print(*(f"{kind}: {used[kind]}" for kind in KINDS), sep="\n")
    assert min(used[kind] for kind in KINDS) >= 20


def test_every_engine_and_qiskit_agree_on_any_of_300_circuits():
    check_many(15)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_engine_and_qiskit_agree_on_any_of_2000_circuits():
    """Two in three on the simulator alone: half of the time is Qiskit's, for the exact network."""
    check_many(100, [*ENGINES, *["simulator"] * 16])


@pytest.mark.parametrize(
    ("table", "gate", "wrong"),
    [("_FIXED", SGate, "t"), ("_ROTATIONS", RXGate, "ry"), ("_FIXED", PhaseGate, "id")],
    ids=["s is t", "rx is ry", "p is id"],
)
def test_a_wrong_gate_is_found(monkeypatch, table, gate, wrong):
    """The test above is able to fail."""
    monkeypatch.setitem(getattr(basis, table), gate, wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_many(15, ["exact"])
