import copy
import pickle

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from torch import nn

from lightning_qsgd.quantum import (
    AerSampler,
    Ansatz,
    CircuitSimulator,
    ExactSampler,
    QuantumLayer,
    QuantumNetwork,
    ReliableSampler,
    layered_circuit,
    superposition_circuit,
)
from tests.runs import context

ANSATZ = layered_circuit(3, 2)


def pair(output="expectations", **arguments):
    """The same layer on the simulator and on exact circuits."""
    one = QuantumLayer(ANSATZ, output, **arguments)
    other = QuantumLayer(ANSATZ, output, QuantumNetwork(ANSATZ), **arguments)
    other.load_state_dict(one.state_dict())
    return one, other


def gradients(layer, inputs):
    inputs = inputs.detach().requires_grad_()
    layer.zero_grad()
    (layer(inputs) ** 2).sum().backward()
    return inputs.grad, layer.weights.grad


@pytest.mark.parametrize("output", ["probabilities", "expectations"])
def test_both_engines_agree_in_values_and_gradients(output):
    simulated, run = pair(output)
    simulated.double(), run.double()
    inputs = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(simulated(inputs), run(inputs), atol=1e-9, rtol=0)
    for ours, theirs in zip(gradients(simulated, inputs), gradients(run, inputs)):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)


def test_gradients_are_those_of_finite_differences():
    layer = QuantumLayer(superposition_circuit(2, 2), "expectations").double()
    inputs = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (inputs,))
    assert torch.autograd.gradgradcheck(layer, (inputs,))


def test_second_derivatives_through_circuits_are_refused():
    inputs = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="second derivatives need engine='simulator'"):
        torch.autograd.grad(pair()[1](inputs).sum(), inputs, create_graph=True)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3), (0, 3), (2, 0, 3)])
def test_leading_axes(shape):
    for layer in pair():
        inputs = torch.randn(shape, requires_grad=True)
        outputs = layer(inputs)
        assert outputs.shape == (*shape[:-1], 3)
        outputs.sum().backward()
        assert inputs.grad.shape == shape
        flat = layer(inputs.reshape(-1, 3))
        torch.testing.assert_close(outputs.reshape(-1, 3), flat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_output_and_gradients_have_the_dtypes_of_inputs_and_weights(dtype):
    for layer in pair("probabilities"):
        layer.to(dtype)
        inputs = torch.randn(4, 3, dtype=dtype, requires_grad=True)
        outputs = layer(inputs)
        assert outputs.dtype == dtype
        exact = CircuitSimulator(ANSATZ)(inputs.double(), layer.weights.double())
        torch.testing.assert_close(outputs.double(), exact, atol=2 * torch.finfo(dtype).eps + 1e-6, rtol=0.01)
        outputs.square().sum().backward()
        assert (inputs.grad.dtype, layer.weights.grad.dtype) == (dtype, dtype)


def test_autocast_does_not_reach_the_circuit():
    for layer in pair():
        inputs = torch.randn(4, 3)
        with torch.autocast("cpu", torch.bfloat16):
            inside = layer(inputs)
        assert torch.equal(inside, layer(inputs))


def test_observables():
    names = ["Z0", "Z0Z1", "Z0Z2"]
    layer, inputs = QuantumLayer(ANSATZ, "expectations", observables=names), torch.randn(2, 3)
    p = CircuitSimulator(ANSATZ)(inputs, layer.weights)
    bits = torch.arange(8)[:, None] >> torch.arange(3) & 1
    z = 1 - 2 * bits
    expected = p @ torch.stack([z[:, 0], z[:, 0] * z[:, 1], z[:, 0] * z[:, 2]], -1).to(p)
    torch.testing.assert_close(layer(inputs), expected)


def test_state_dict_holds_each_weight_once_and_engines_can_be_swapped():
    simulated, run = pair()
    assert list(simulated.state_dict()) == list(run.state_dict()) == ["weights", "_extra_state"]
    other = QuantumLayer(layered_circuit(3, 2, entanglement="none"), "expectations")
    assert other.weights.shape == run.weights.shape
    with pytest.raises(RuntimeError, match="the weights belong to another circuit"):
        other.load_state_dict(run.state_dict())
    assert [name for name, _ in run.named_parameters()] == ["weights"]
    assert simulated.weights.abs().max() <= torch.pi


def test_circuits_and_shots_are_counted_with_those_of_gradients():
    layer = QuantumLayer(ANSATZ, engine=QuantumNetwork(ANSATZ, AerSampler(shots=10)))
    inputs = torch.randn(2, 3, requires_grad=True)
    layer(inputs).sum().backward()
    gates = 6 + 6 + 3  # Rx, Ry, Rz
    assert (layer.circuits, layer.shots) == (2 * (1 + 2 * gates), 2 * (1 + 2 * gates) * 10)
    with torch.no_grad():
        layer(inputs)
    assert layer.circuits == 2 * (1 + 2 * gates) + 2
    layer(inputs.detach()).sum().backward()  # inputs need no gradient: their gates are not shifted
    assert layer.circuits == 2 * (1 + 2 * gates) + 2 + 2 * (1 + 2 * 9)
    assert QuantumLayer(ANSATZ).circuits == 0


def _forward(layer, inputs):
    return layer(inputs).detach()


def test_a_circuit_alone_is_refused_with_what_to_write():
    circuit = QuantumCircuit(1)
    circuit.ry(Parameter("x"), 0)
    with pytest.raises(ValueError, match=r"a QuantumCircuit; wrap the circuit: QuantumLayer\(Ansatz\(circuit, inputs"):
        QuantumLayer(circuit)


def test_copies_and_other_processes():
    with context.Pool(1) as pool:
        for layer in pair():
            inputs = torch.randn(2, 3)
            expected = layer(inputs)
            for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                torch.testing.assert_close(twin(inputs), expected)
                with torch.no_grad():
                    twin.weights += 1
                assert not torch.equal(twin(inputs), expected)
            torch.testing.assert_close(pool.apply(_forward, (layer, inputs)), expected.detach())


def test_compiled_around():
    for layer, whole in zip(pair(), (True, False)):
        model = nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 2))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=whole)
        inputs = torch.randn(5, 4)
        torch.testing.assert_close(compiled(inputs), model(inputs))
        compiled(inputs).sum().backward()
        assert layer.weights.grad.abs().sum() > 0


def test_an_ansatz_without_weights():
    x = Parameter("x")
    circuit = QuantumCircuit(1)
    circuit.rx(x, 0)
    ansatz = Ansatz(circuit, [x])
    for engine in ("simulator", QuantumNetwork(ansatz)):
        layer = QuantumLayer(ansatz, engine=engine)
        assert layer.weights.shape == (0,)
        assert not layer.weights.requires_grad
        assert layer(torch.tensor([torch.pi])).tolist() == pytest.approx([0, 1], abs=1e-6)


def test_it_learns():
    torch.manual_seed(0)
    layer = QuantumLayer(layered_circuit(1, 2), "expectations")
    inputs = torch.linspace(-3, 3, 40)[:, None]
    target = inputs.cos() * 0.8
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (layer(inputs) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "samples"}, "Invalid output: 'samples'"),
        ({"engine": "aer"}, "Invalid engine: 'aer'"),
        ({"engine": ExactSampler}, r"\(ABCMeta\); it must be 'simulator', 'native', 'torch', None, a sampler"),
        ({"engine": 3}, r"Invalid engine: '3' \(int\)"),
        ({"observables": ["Z0"]}, "need output='expectations'"),
        ({"output": "expectations", "observables": ["Z7"]}, "Invalid observable: 'Z7'"),
        ({"engine": QuantumNetwork(layered_circuit(2, 1))}, "another ansatz"),
    ],
)
def test_invalid_layers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantumLayer(ANSATZ, **arguments)


def test_no_engine_is_the_simulator():
    assert QuantumLayer(ANSATZ, engine=None).engine_name == "simulator"


@pytest.mark.parametrize("inputs", [torch.zeros(2, 4), torch.zeros(()), torch.zeros(2, 3, dtype=torch.int64)])
def test_invalid_inputs_are_refused(inputs):
    with pytest.raises(ValueError, match=r"Invalid inputs: .*floating point, \(\.\.\., 3\)"):
        QuantumLayer(ANSATZ)(inputs)


def test_states_of_earlier_versions_load_and_are_compared():
    layer = QuantumLayer(superposition_circuit(2, 1))
    state = layer.state_dict()
    state["circuit_id"] = state.pop("_extra_state")
    model, saved = torch.nn.Sequential(layer), {f"0.{name}": value for name, value in state.items()}
    model.load_state_dict(saved)
    saved["0.circuit_id"] = saved["0.circuit_id"] + 1
    with pytest.raises(RuntimeError, match="the weights belong to another circuit"):
        model.load_state_dict(saved)


def trained(layer, steps):
    inputs, optimizer = torch.linspace(-1, 1, 6).reshape(2, 3), torch.optim.Adam([layer.weights], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(inputs).square().sum().backward()
        optimizer.step()
    return layer(inputs).detach(), layer.weights.detach()


@pytest.mark.parametrize("wrap", [lambda sampler: sampler, ReliableSampler], ids=["plain", "wrapped"])
def test_a_resumed_layer_draws_the_shots_that_the_uninterrupted_one_would(wrap):
    def layer():
        torch.manual_seed(1)
        return QuantumLayer(ANSATZ, "expectations", QuantumNetwork(ANSATZ, wrap(AerSampler(shots=20))))

    first = layer()
    trained(first, 2)
    state = copy.deepcopy(first.state_dict())
    resumed = layer()
    resumed.load_state_dict(state)
    for ours, theirs in zip(trained(resumed, 2), trained(first, 2)):
        assert torch.equal(ours, theirs)


def test_states_with_and_without_a_place_of_the_noise_load_in_each_other():
    exact = QuantumLayer(ANSATZ, "expectations")
    sampled = QuantumLayer(ANSATZ, "expectations", QuantumNetwork(ANSATZ, AerSampler(shots=20)))
    trained(sampled, 1)
    place = sampled.engine.sampler.noise_position
    sampled.load_state_dict(exact.state_dict())
    assert sampled.engine.sampler.noise_position == place
    exact.load_state_dict(sampled.state_dict())
    assert exact.state_dict()["_extra_state"].ndim == 0
    assert torch.equal(exact.weights, sampled.weights)


@pytest.mark.parametrize("engine", [CircuitSimulator, QuantumNetwork])
def test_float64_weights_with_float32_inputs_run_in_float64(engine, monkeypatch):
    name, seen = "__call__" if engine is CircuitSimulator else "probabilities", []
    run = getattr(engine, name)

    def note(self, rows, weights, **options):
        seen.append(np.asarray(weights.detach() if engine is CircuitSimulator else weights))
        return run(self, rows, weights, **options)

    layer = QuantumLayer(ANSATZ, "probabilities", None if engine is CircuitSimulator else QuantumNetwork(ANSATZ))
    layer.double()
    monkeypatch.setattr(engine, name, note)
    with torch.no_grad():
        layer.weights += 1e-9  # lost in float32
        assert layer(torch.randn(5, 3)).dtype == torch.float32
    assert np.array_equal(seen[0], layer.weights.detach().numpy())


# ---- circuits by name, weights from outside, circuits without inputs


def test_a_circuit_by_name():
    layer = QuantumLayer("ring", "expectations", circuit={"num_qubits": 3, "depth": 1})
    assert layer.ansatz.circuit.name == "ring"
    assert layer(torch.zeros(5, 3)).shape == (5, 3)
    with pytest.raises(ValueError, match="Invalid circuit: 'rnig'; close: ring"):
        QuantumLayer("rnig")


@pytest.mark.parametrize("engine", ["native", "torch", ExactSampler()])
def test_weights_of_each_row_from_outside(engine):
    layer = QuantumLayer("ring", "expectations", engine, circuit={"num_qubits": 2, "depth": 1}).double()
    inputs = torch.randn(2, 3, 2, dtype=torch.float64)
    weights = torch.randn(2, 3, layer.ansatz.num_weights, dtype=torch.float64, requires_grad=True)
    found = layer(inputs, weights)
    one = torch.stack([layer(inputs[k // 3, k % 3], weights[k // 3, k % 3]) for k in range(6)]).view(2, 3, -1)
    torch.testing.assert_close(found, one)
    (grad,) = torch.autograd.grad(found.square().sum(), weights)
    reference = QuantumLayer(layer.ansatz, "expectations", "torch").double()
    (expected,) = torch.autograd.grad(reference(inputs, weights).square().sum(), weights)
    torch.testing.assert_close(grad, expected)
    assert layer.weights.grad is None
    with pytest.raises(ValueError, match=r"Invalid weights: torch.float64 of shape \(3,\)"):
        layer(inputs, weights[0, :, 0])


@pytest.mark.parametrize("engine", ["native", "torch", ExactSampler()])
def test_an_ansatz_without_inputs(engine):
    layer = QuantumLayer("brick", engine=engine, circuit={"num_qubits": 2, "encoding": "none"})
    assert layer().shape == layer(torch.zeros(1, 0)).shape == (1, 4)
    assert layer().requires_grad
    many = torch.randn(5, layer.ansatz.num_weights)
    out = layer(weights=many)
    assert out.shape == (5, 4)
    for row, weights in zip(out, many, strict=True):
        torch.testing.assert_close(row, layer(weights=weights)[0])
    layer().square().sum().backward()
    assert layer.weights.grad.abs().sum() > 0


@pytest.mark.parametrize(("initial", "spread"), [("uniform", 1.81), ("normal", 1.0), ("small", 0.01)])
def test_initial_weights_by_name(initial, spread):
    layer = QuantumLayer("ring", circuit={"num_qubits": 6, "depth": 40}, initial=initial)
    assert float(layer.weights.std()) == pytest.approx(spread, rel=0.1)
    before = layer.weights.clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weights)


def test_initial_weights_as_numbers():
    layer = QuantumLayer("brick", circuit={"num_qubits": 2, "depth": 1}, initial=[0.1, 0.2, 0.3, 0.4])
    assert layer.weights.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_sampler_as_the_engine():
    layer = QuantumLayer("ring", engine=AerSampler(shots=10), circuit={"num_qubits": 2, "depth": 1})
    assert layer(torch.zeros(3, 2)).shape == (3, 4)
    assert (layer.circuits, layer.shots, layer.engine_name) == (3, 30, "AerSampler")
