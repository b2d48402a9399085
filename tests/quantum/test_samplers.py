import pickle
import statistics
import sys

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BackendSamplerV2, BaseSamplerV2
from qiskit_aer.noise import NoiseModel
from qiskit_ibm_runtime.fake_provider import FakeKolkataV2, FakeManilaV2

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    ExactSampler,
    FakeBackendSampler,
    IBMSampler,
    QuantumNetwork,
    ReliableSampler,
    superposition_circuit,
)
from lightning_qsgd.quantum.noise import depolarizing_noise, readout_noise, thermal_noise
from lightning_qsgd.quantum.samplers import described
from tests.ranks import on_two_ranks

ANSATZ = superposition_circuit(4, 2)
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(5, 4)), RNG.normal(size=12)
SHOTS = 40_000
TOLERANCE = 5 / np.sqrt(SHOTS)  # five standard errors of s = P(1) - P(0)


def rotation(fixed_x=False):
    """One qubit: Rx(angle); or X, then an Rz that leaves the outcome alone."""
    x = ParameterVector("x", 1)
    circuit = QuantumCircuit(1)
    if fixed_x:
        circuit.x(0)
        circuit.rz(x[0], 0)
    else:
        circuit.rx(x[0], 0)
    return Ansatz(circuit, list(x))


def s(ansatz, angles, noise, shots=SHOTS):
    network = QuantumNetwork(ansatz, AerSampler(shots=shots, noise=noise), optimization_level=0)
    return network.probabilities(np.reshape(angles, (-1, 1))) @ [-1, 1]


def test_readout_errors_offset_and_shrink():
    angles, e01, e10 = np.array([0.0, 1.0, 2.0, np.pi]), 0.3, 0.05
    expected = (1 - e01 - e10) * -np.cos(angles) + (e01 - e10)
    np.testing.assert_allclose(s(rotation(), angles, readout_noise(e01, e10)), expected, atol=TOLERANCE)


def test_depolarizing_errors_shrink():
    angles, rate = np.array([0.0, 1.0, 2.0, np.pi]), 0.1
    expected = (1 - 2 * rate) ** 2 * -np.cos(angles)  # an Rx is two sx
    np.testing.assert_allclose(s(rotation(), angles, depolarizing_noise(rate, 0)), expected, atol=TOLERANCE)
    x = ParameterVector("x", 1)
    circuit = QuantumCircuit(2)
    circuit.rz(x[0], 0)
    circuit.cx(0, 1)
    network = QuantumNetwork(Ansatz(circuit, list(x)), AerSampler(SHOTS, noise=depolarizing_noise(0, 0.3)))
    mixed = 0.3 / 0.75 / 4  # the fully mixed state's share of each outcome
    np.testing.assert_allclose(network.probabilities([[0.0]])[0, 1:], mixed, atol=TOLERANCE)


def test_thermal_relaxation_decays_to_0():
    noise = thermal_noise(t1=1.0, t2=1.0, one_qubit_time=0.5)
    assert s(rotation(fixed_x=True), [0.0], noise)[0] == pytest.approx(2 * np.exp(-0.5) - 1, abs=TOLERANCE)
    assert s(rotation(), [0.0], thermal_noise(one_qubit_time=0))[0] == -1


@pytest.mark.parametrize("noise", ["depolarizing", "thermal", "readout"])
def test_presets_are_transpiled_to_the_hardware_basis_with_parameters_in_rz(noise):
    network = QuantumNetwork(ANSATZ, AerSampler(noise=noise))
    gates = {instruction.operation.name for instruction in network.qnn.circuit}
    assert gates <= {"rz", "sx", "x", "cx", "barrier", "measure"}
    for instruction in network.qnn.circuit:
        if any(getattr(value, "parameters", ()) for value in instruction.operation.params):
            assert instruction.operation.name == "rz"
    assert network.probabilities(INPUTS, WEIGHTS).shape == (5, 16)


def test_default_rates_are_those_of_a_device():
    backend = FakeKolkataV2()
    target, properties, qubits = backend.target, backend.properties(), range(backend.num_qubits)
    one = statistics.median(p.error for p in target["sx"].values())
    two = statistics.median(p.error for p in target["cx"].values())
    e01 = statistics.median(properties.qubit_property(q, "prob_meas1_prep0")[0] for q in qubits)
    e10 = statistics.median(properties.qubit_property(q, "prob_meas0_prep1")[0] for q in qubits)
    t1 = statistics.median(target.qubit_properties[q].t1 * 1e6 for q in qubits)
    t2 = statistics.median(target.qubit_properties[q].t2 * 1e6 for q in qubits)
    times = [statistics.median(p.duration * 1e6 for p in target[g].values()) for g in ("sx", "cx")]
    names = "one_qubit", "two_qubit", "t1", "t2", "one_qubit_time", "two_qubit_time", "e01", "e10"
    defaults = (*depolarizing_noise.__defaults__, *thermal_noise.__defaults__, *readout_noise.__defaults__)
    for name, default, median in zip(names, defaults, (one, two, t1, t2, *times, e01, e10)):
        assert default == pytest.approx(median, rel=0.1), name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: depolarizing_noise(0.6), r"Invalid one_qubit: 0.6; it must be between 0 and 0.5"),
        (lambda: depolarizing_noise(0, -1), r"Invalid two_qubit: -1; it must be between 0 and 0.75"),
        (lambda: thermal_noise(t1=0), "Invalid t1: 0; it must be above 0"),
        (lambda: thermal_noise(t1=1, t2=3), r"Invalid t2: 3; .* at most 2 \* t1 = 2"),
        (lambda: thermal_noise(two_qubit_time=-1), "Invalid two_qubit_time: -1; it must be at least 0"),
        (lambda: readout_noise(e10=float("nan")), "Invalid e10: nan"),
        (lambda: AerSampler(noise="thermall"), "Invalid noise: 'thermall'; it must be one of depolarizing, thermal"),
        (lambda: AerSampler(noise="FakeManillaV2").backend, "no fake backend 'FakeManillaV2' .* FakeManilaV2"),
        (lambda: FakeBackendSampler("manila").backend, "no fake backend 'manila' among"),
        (lambda: FakeBackendSampler(shots=0), "Invalid shots: 0"),
    ],
)
def test_invalid_noise_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("noise", [readout_noise(), "depolarizing", "FakeManilaV2"])
def test_noisy_samplers_pickle_and_repeat(noise):
    network = QuantumNetwork(ANSATZ, AerSampler(shots=64, seed=1, noise=noise))
    first, second = (network.probabilities(INPUTS, WEIGHTS, step=step) for step in (0, 1))
    copy = pickle.loads(pickle.dumps(network))
    assert copy.sampler._backend is None
    np.testing.assert_array_equal(copy.probabilities(INPUTS, WEIGHTS, step=0), first)
    assert not np.array_equal(first, second)


def test_noise_from_the_command_line():
    parser = ArgumentParser()
    parser.add_argument("--sampler", type=BaseSamplerV2)
    sampler = "--sampler=lightning_qsgd.quantum.AerSampler"
    by_name = parser.instantiate(parser.parse_args([sampler, "--sampler.noise=thermal"])).sampler
    assert by_name.noise == "thermal"
    arguments = ["--sampler.noise=lightning_qsgd.quantum.noise.readout_noise", "--sampler.noise.e01=0.5"]
    by_path = parser.instantiate(parser.parse_args([sampler, *arguments])).sampler
    assert isinstance(by_path.noise, NoiseModel)
    assert by_path.noise == readout_noise(e01=0.5)
    fake = parser.instantiate(parser.parse_args(["--sampler=lightning_qsgd.quantum.FakeBackendSampler"])).sampler
    assert fake.name == "FakeManilaV2"


def test_fake_backend_is_built_once_and_its_couplings_are_kept():
    sampler = FakeBackendSampler("FakeManilaV2", shots=4000, seed=3)
    network = QuantumNetwork(ANSATZ, sampler)
    backend = sampler.backend
    assert sampler.backend is backend
    assert backend.options.max_parallel_threads == 1
    allowed = set(FakeManilaV2().target["cx"])
    pairs = {
        tuple(network.qnn.circuit.find_bit(q).index for q in instruction.qubits)
        for instruction in network.qnn.circuit
        if instruction.operation.name == "cx"
    }
    assert pairs
    assert pairs <= allowed
    noisy = network.probabilities(INPUTS, WEIGHTS, step=0)
    distance = np.abs(noisy - QuantumNetwork(ANSATZ).probabilities(INPUTS, WEIGHTS)).sum(-1) / 2
    assert distance.min() > 0.02
    assert distance.max() < 0.2  # noisy, but not permuted


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (ExactSampler(), "ExactSampler"),
        (AerSampler(shots=2048, noise="readout"), "AerSampler, noise readout, 2,048 shots"),
        (FakeBackendSampler("FakeJakartaV2"), "FakeBackendSampler on FakeJakartaV2, 1,024 shots"),
        (ReliableSampler(FakeBackendSampler(shots=8)), "ReliableSampler on FakeManilaV2, 8 shots"),
        (IBMSampler("ibm_torino"), "IBMSampler on ibm_torino, 1,024 shots"),  # it connects to nothing
        (BackendSamplerV2(backend=FakeManilaV2()), "BackendSamplerV2 on fake_manila"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sampler_in_words(sampler, words):
    assert described(sampler) == words


def test_fake_backend_repeats_with_seed_and_step_and_pickles():
    def run(seed, steps=(0, 1, 0)):
        network = QuantumNetwork(ANSATZ, FakeBackendSampler(shots=64, seed=seed))
        return [network.probabilities(INPUTS, WEIGHTS, step=step) for step in steps]

    first, second, again = run(0)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, run(1, (0,))[0])
    copy = pickle.loads(pickle.dumps(QuantumNetwork(ANSATZ, FakeBackendSampler(shots=64))))
    assert copy.sampler._backend is None
    np.testing.assert_array_equal(copy.probabilities(INPUTS, WEIGHTS, step=0), first)


def test_without_the_runtime_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", None)
    for sampler in (FakeBackendSampler(), AerSampler(noise="FakeManilaV2")):
        with pytest.raises(ModuleNotFoundError, match=r"pip install qiskit-ibm-runtime"):
            _ = sampler.backend


def sampled_rows():
    layer = QuantumNetwork(superposition_circuit(2, 1), AerSampler(shots=64, seed=3))
    return torch.from_numpy(layer.probabilities(np.full((3, 2), 0.4), np.full(layer.ansatz.num_weights, 0.2)))


@pytest.mark.slow
def test_ranks_draw_noise_of_their_own_and_rank_0_that_of_a_single_process(tmp_path):
    first, second = on_two_ranks(sampled_rows, tmp_path, start="forkserver")
    assert torch.equal(first, sampled_rows())
    assert not torch.equal(first, second)
