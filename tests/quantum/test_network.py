import pickle
import warnings

import numpy as np
import pytest
import torch
from qiskit import ClassicalRegister, QuantumCircuit, transpile
from qiskit.circuit import ParameterVector
from qiskit.primitives import BackendSamplerV2, BaseSamplerV2, BitArray, PrimitiveJob, StatevectorSampler
from qiskit.primitives.containers import DataBin, PrimitiveResult, SamplerPubResult
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Statevector
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error
from qiskit_aer.primitives import SamplerV2
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from qiskit_machine_learning.neural_networks import SamplerQNN

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    ExactSampler,
    FakeBackendSampler,
    QuantumNetwork,
    superposition_circuit,
)
from lightning_qsgd.quantum.samplers import described, transpiled
from tests.runs import context

ANSATZ = superposition_circuit(4, 2)
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(5, 4)), RNG.normal(size=12)


def exact(ansatz, inputs, weights=()):
    parameters = ansatz.inputs + ansatz.weights
    states = [Statevector(ansatz.circuit.assign_parameters(dict(zip(parameters, [*r, *weights])))) for r in inputs]
    return np.array([state.probabilities() for state in states])


def test_exact_sampler_gives_the_statevectors_probabilities():
    network = QuantumNetwork(ANSATZ, ExactSampler())
    np.testing.assert_allclose(network.probabilities(INPUTS, WEIGHTS), exact(ANSATZ, INPUTS, WEIGHTS), atol=1e-14)
    assert (network.circuits, network.shots) == (5, 0)
    assert network.seconds > 0


@pytest.mark.parametrize("sampler", ["lightning_qsgd.quantum.FakeBackendSampler", ExactSampler, AerSimulator()])
def test_what_is_no_sampler_is_refused_at_once(sampler):
    with pytest.raises(ValueError, match=r"Invalid sampler: .*annotate the argument as BaseSamplerV2 \| None"):
        QuantumNetwork(ANSATZ, sampler)


def test_bit_k_of_the_outcome_is_qubit_k():
    x = ParameterVector("x", 3)
    circuit = QuantumCircuit(3)
    for q in range(3):
        circuit.rx(x[q], q)
    network = QuantumNetwork(Ansatz(circuit, list(x)), AerSampler(shots=10))
    assert network.probabilities([[np.pi, 0, 0]]).argmax() == 0b001
    assert network.probabilities([[0, 0, np.pi]]).argmax() == 0b100


def test_aer_noise_has_the_mean_and_variance_of_shots():
    shots, repeats = 256, 200
    network = QuantumNetwork(ANSATZ, AerSampler(shots=shots))
    p = exact(ANSATZ, INPUTS[:1], WEIGHTS)[0]
    samples = np.stack([network.probabilities(INPUTS[:1], WEIGHTS)[0] for _ in range(repeats)])
    standard_error = np.sqrt(p * (1 - p) / shots / repeats)
    assert (np.abs(samples.mean(0) - p) < 4.5 * standard_error + 1e-12).all()
    ratio = samples.var(0, ddof=1).sum() / (p * (1 - p) / shots).sum()
    assert 0.8 < ratio < 1.25
    assert network.shots == shots * repeats


def test_aer_noise_is_fresh_in_each_row_call_and_step_and_repeats_with_the_seed():
    same_row = np.repeat(INPUTS[:1], 2, 0)

    def run(seed):
        network = QuantumNetwork(ANSATZ, AerSampler(shots=128, seed=seed))
        calls = [network.probabilities(same_row, WEIGHTS) for _ in range(2)]
        steps = [network.probabilities(same_row, WEIGHTS, step=step) for step in (0, 1, 0)]
        return [*calls, *steps]

    first, second, step0, step1, step0_again = run(0)
    for one, other in ((first, second), (step0, step1), (first, step0), (first[:1], first[1:])):
        assert not np.array_equal(one, other)
    np.testing.assert_array_equal(step0, step0_again)  # equal (seed, step): equal noise
    np.testing.assert_array_equal(run(0), [first, second, step0, step1, step0_again])
    assert not np.array_equal(run(1)[2], step0)


def test_counts_equal_those_of_the_stock_sampler_qnn():
    measured = ANSATZ.circuit.measure_all(inplace=False)
    stock = SamplerQNN(
        circuit=measured,
        sampler=SamplerV2(default_shots=500, seed=7),
        input_params=ANSATZ.inputs,
        weight_params=ANSATZ.weights,
    )
    ours = QuantumNetwork(ANSATZ, SamplerV2(default_shots=500, seed=7))
    np.testing.assert_array_equal(ours.probabilities(INPUTS, WEIGHTS), stock.forward(INPUTS, WEIGHTS))


@pytest.mark.parametrize("optimization_level", [0, 1, 2, 3])
@pytest.mark.filterwarnings("ignore:.*has no QubitProperties.*")
@pytest.mark.parametrize("layout", [None, [0, 1, 2, 3], [1, 2, 3, 4], [4, 2, 0, 3]])
def test_right_on_every_layout(layout, optimization_level):
    line = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2], [3, 4], [4, 3]]
    backend = GenericBackendV2(5, basis_gates=["rz", "sx", "x", "cx"], coupling_map=line, noise_info=False)
    sampler = BackendSamplerV2(backend=backend, options={"default_shots": 20_000, "seed_simulator": 1})
    network = QuantumNetwork(ANSATZ, sampler, optimization_level=optimization_level, initial_layout=layout)
    distance = np.abs(network.probabilities(INPUTS[:2], WEIGHTS) - exact(ANSATZ, INPUTS[:2], WEIGHTS)).sum(-1) / 2
    assert distance.max() < 0.025  # a permuted bit costs 0.12 to 0.68


class ExactOnManila(ExactSampler):
    """Exact probabilities of circuits that were transpiled for the device."""

    backend = FakeManilaV2()


def reference_jacobian(ansatz, inputs, weights):
    simulate = CircuitSimulator(ansatz)

    def one(x, w):
        return simulate(x[None], w)[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one, (0, 1)), (0, None))
    return [j.numpy() for j in jacobian(torch.from_numpy(inputs), torch.from_numpy(weights))]


@pytest.mark.parametrize("optimization_level", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", [None, [0, 1, 2, 3], [1, 2, 3, 4], [4, 2, 0, 3]])
def test_right_probabilities_and_gradients_on_manila(layout, optimization_level):
    transpiling = {"optimization_level": optimization_level, "initial_layout": layout}
    network = QuantumNetwork(ANSATZ, ExactOnManila(), **transpiling)
    inputs = INPUTS[:2]
    np.testing.assert_allclose(network.probabilities(inputs, WEIGHTS), exact(ANSATZ, inputs, WEIGHTS), atol=1e-9)
    expected = reference_jacobian(ANSATZ, inputs, WEIGHTS)
    for ours, want in zip(network.jacobian(inputs, WEIGHTS), expected):
        np.testing.assert_allclose(ours, want, atol=1e-9)
    if layout in (None, [4, 2, 0, 3]):  # the SamplerQNN's own, which TorchConnector asks
        for theirs, want in zip(network.qnn.backward(inputs, WEIGHTS), expected):
            np.testing.assert_allclose(theirs, want, atol=1e-9)


def test_parameters_outside_virtual_rz_are_named():
    line = [[0, 1], [1, 0]]
    device = GenericBackendV2(2, basis_gates=["rz", "rx", "cx"], coupling_map=line, noise_info=False)
    with pytest.warns(UserWarning, match="parameters occur in rx, not only in the virtual rz"):
        QuantumNetwork(superposition_circuit(2, 1), BackendSamplerV2(backend=device))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QuantumNetwork(ANSATZ, ExactOnManila())
        QuantumNetwork(ANSATZ, AerSampler())


def test_jacobian_by_parameter_shift():
    x, w = ParameterVector("x", 2), ParameterVector("w", 2)
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.ry(2 * x[0] - 0.5 * w[0] + 0.3, 0)
    circuit.rzz(x[1], 0, 1)
    circuit.cp(w[1] - x[0], 0, 1)
    circuit.rx(w[0], 1)
    circuit.h([0, 1])
    ansatz, inputs, weights = Ansatz(circuit, list(x), list(w)), INPUTS[:3, :2], WEIGHTS[:2]
    network = QuantumNetwork(ansatz)
    by_inputs, by_weights = network.jacobian(inputs, weights)
    want_inputs, want_weights = reference_jacobian(ansatz, inputs, weights)
    np.testing.assert_allclose(by_inputs, want_inputs, atol=1e-9)
    np.testing.assert_allclose(by_weights, want_weights, atol=1e-9)
    assert network.circuits == 3 * 2 * 4  # two for each gate, although x[0] and w[0] enter two gates each
    only_inputs, zeros = network.jacobian(inputs, weights, of="inputs")
    np.testing.assert_allclose(only_inputs, want_inputs, atol=1e-9)
    assert not zeros.any()
    assert network.circuits == 24 + 3 * 2 * 3  # w[0] alone in the last one
    assert [j.shape for j in network.jacobian(np.zeros((0, 2)), weights)] == [(0, 4, 2), (0, 4, 2)]


def test_shot_noise_of_the_jacobian_is_unbiased():
    network = QuantumNetwork(ANSATZ, AerSampler(shots=2000))
    errors = [
        network.jacobian(INPUTS[:1], WEIGHTS)[0] - reference_jacobian(ANSATZ, INPUTS[:1], WEIGHTS)[0] for _ in range(20)
    ]
    assert 0 < np.abs(errors).max() < 0.1
    assert np.abs(np.mean(errors, 0)).max() < 0.015


def test_jacobian_of_a_controlled_rotation_takes_four_circuits():
    x = ParameterVector("x", 1)
    circuit = QuantumCircuit(2)
    circuit.h([0, 1])
    circuit.crx(x[0], 0, 1)
    circuit.h([0, 1])
    ansatz = Ansatz(circuit, list(x))
    network = QuantumNetwork(ansatz)
    by_inputs, _ = network.jacobian([[0.1]])
    np.testing.assert_allclose(by_inputs, reference_jacobian(ansatz, np.array([[0.1]]), np.zeros(0))[0], atol=1e-9)
    assert network.circuits == 4


def test_composite_gates_and_noise_run_on_aer():
    inner = superposition_circuit(2, 1)
    outer = QuantumCircuit(2)
    outer.append(inner.circuit.to_gate(), [0, 1])
    clean = QuantumNetwork(Ansatz(outer, inner.inputs, inner.weights), AerSampler(shots=20_000))
    np.testing.assert_allclose(
        clean.probabilities(INPUTS[:, :2], WEIGHTS[:2]), exact(inner, INPUTS[:, :2], WEIGHTS[:2]), atol=0.025
    )
    model = NoiseModel()
    model.add_all_qubit_readout_error(ReadoutError([[0.7, 0.3], [0.3, 0.7]]))
    model.add_all_qubit_quantum_error(depolarizing_error(0.01, 1), ["ry"])
    noisy = QuantumNetwork(superposition_circuit(1, 1), AerSampler(shots=20_000, noise=model))
    p = noisy.probabilities([[np.pi / 2]], [0.0])[0, 1]
    assert p == pytest.approx(0.7, abs=0.02)


def test_one_thread_and_missing_device():
    assert AerSampler().backend.options.max_parallel_threads == 1
    if "GPU" not in (AerSimulator().available_devices() or []):
        with pytest.raises(ValueError, match=r"Invalid device: 'GPU'.*qiskit-aer-gpu"):
            _ = AerSampler(device="GPU").backend


@pytest.mark.parametrize("arguments", [{"shots": 0}, {"shots": None}, {"shots": 0.5}, {"seed": -1}])
def test_invalid_samplers_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"Invalid {name}: {value}"):
        AerSampler(**arguments)


def _in_another_process(network):
    return network.probabilities(INPUTS, WEIGHTS, step=3)


def test_network_pickles_into_another_process():
    network = QuantumNetwork(ANSATZ, AerSampler(shots=64, seed=1))
    here = network.probabilities(INPUTS, WEIGHTS, step=3)
    with context.Pool(1) as pool:
        there = pool.apply(_in_another_process, (network,))
    np.testing.assert_array_equal(here, there)
    copy = pickle.loads(pickle.dumps(QuantumNetwork(ANSATZ)))
    np.testing.assert_allclose(copy.probabilities(INPUTS, WEIGHTS), exact(ANSATZ, INPUTS, WEIGHTS), atol=1e-10)


def test_more_outcomes_than_memory_holds_are_refused():
    x, circuit = ParameterVector("x", 1), QuantumCircuit(127)
    circuit.ry(x[0], 0)
    with pytest.raises(ValueError, match=r"Invalid ansatz: 127 qubits.*at most 24.*pass the circuit from before"):
        QuantumNetwork(Ansatz(circuit, list(x)))


def test_shapes():
    network = QuantumNetwork(ANSATZ)
    assert network.probabilities(np.zeros((0, 4)), WEIGHTS).shape == (0, 16)
    with pytest.raises(ValueError, match=r"Invalid inputs: shape \(4,\); it must be \('batch', 4\)"):
        network.probabilities(INPUTS[0], WEIGHTS)
    with pytest.raises(ValueError, match=r"Invalid weights: shape \(3,\); it must be \(12,\)"):
        network.probabilities(INPUTS, WEIGHTS[:3])
    with pytest.raises(ValueError, match="12 weights; got weights=None"):
        network.probabilities(INPUTS)
    with pytest.raises(ValueError, match="1 of 4 values are not finite"):
        network.probabilities([[0, np.nan, 0, 0]], WEIGHTS)


class LyingSampler(BaseSamplerV2):
    """Runs, then spoils the result."""

    def __init__(self, spoil):
        self.spoil = spoil

    def run(self, pubs, *, shots=None):
        (circuit, values), *_ = pubs
        if self.spoil == "rows":
            values = values[:-1]
        if self.spoil == "register":
            circuit = circuit.remove_final_measurements(inplace=False)
            circuit.add_register(ClassicalRegister(circuit.num_qubits, "c"))
            circuit.measure(range(circuit.num_qubits), range(circuit.num_qubits))
        job = StatevectorSampler(default_shots=8, seed=0).run([(circuit, values)])
        if self.spoil != "empty":
            return job
        nothing = BitArray(np.zeros((len(values), 0, 1), dtype=np.uint8), circuit.num_qubits)
        result = PrimitiveResult([SamplerPubResult(DataBin(meas=nothing, shape=(len(values),)))])
        job = PrimitiveJob(lambda: result)
        job._submit()
        return job


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("rows", r"rows of shape \(4,\) instead of \(5,\)"),
        ("register", "no register 'meas'"),
        ("empty", "row 0 sums to 0"),
    ],
)
def test_wrong_results_are_refused(spoil, message):
    with pytest.raises(RuntimeError, match=message):
        QuantumNetwork(ANSATZ, LyingSampler(spoil)).probabilities(INPUTS, WEIGHTS)


RING = QuantumCircuit(4)
ANGLES = ParameterVector("r", 4)
for _q in range(4):
    RING.ry(ANGLES[_q], _q)
for _a, _b in [(0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)]:  # more pairs than the device couples: it is routed
    RING.cx(_a, _b)


def operations(network):
    circuit = network.qnn.circuit
    return [(i.operation.name, *(circuit.find_bit(bit).index for bit in (*i.qubits, *i.clbits))) for i in circuit.data]


def test_transpiled_circuits_repeat():
    """In every process: jobs of a killed run are found by what they run."""
    found = [operations(QuantumNetwork(Ansatz(RING, list(ANGLES)), ExactOnManila())) for _ in range(6)]
    assert all(each == found[0] for each in found)


SIMULATORS = [AerSampler(), *[AerSampler(noise=noise) for noise in ("depolarizing", "thermal", "FakeManilaV2")]]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("sampler", [*SIMULATORS, FakeBackendSampler("FakeJakartaV2")], ids=described)
def test_transpiling_for_a_target_of_aer_is_transpiling_for_the_simulator(sampler, level):
    circuit = Ansatz(RING, list(ANGLES)).normal_form.circuit()
    options = {"optimization_level": level, "seed_transpiler": 0}
    plain = transpile(circuit, sampler.backend, **options)
    fast = transpiled(circuit, sampler.backend, **options)
    assert fast == plain
    assert fast.global_phase == plain.global_phase
    assert (fast.layout and fast.layout.final_index_layout()) == (plain.layout and plain.layout.final_index_layout())


@pytest.mark.parametrize("layout", [None, [4, 2, 0, 3], [1, 2, 3, 4]])
def test_forward_and_gradients_run_on_the_same_physical_qubits(layout):
    network = QuantumNetwork(ANSATZ, ExactOnManila(), initial_layout=layout)
    network.jacobian(INPUTS[:1], WEIGHTS)
    measured, used = (
        [(qubit, bit) for name, qubit, *bit in operations(each) if name == "measure"]
        for each in (network, network._shifted)
    )
    assert measured == used
