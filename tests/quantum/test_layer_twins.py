"""Classical twins in place of a model's QuantumLayers."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from torch import nn

from lightning_qsgd.models import QuantumAttention
from lightning_qsgd.quantum import Ansatz, QuantumLayer, named_circuit
from lightning_qsgd.quantum.layer_twins import product_circuit, replace_circuits, trainable
from lightning_qsgd.twin_names import LAYER_TWINS, NoTwinError

CLASSICAL = ("linear", "tanh", "mlp", "fitted_series", "bypass")


def ring(output="expectations", **options):
    return QuantumLayer("ring", output, circuit={"num_qubits": 3, "depth": 1}, engine="torch", **options)


def model(layer=None):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 3), ring() if layer is None else layer, nn.Linear(3, 2))


@pytest.mark.parametrize("kind", LAYER_TWINS)
@pytest.mark.parametrize("output", ["expectations", "probabilities"])
def test_every_twin_has_the_layers_shapes_dtypes_and_range(kind, output):
    net = nn.Sequential(ring(output))
    (replaced,) = replace_circuits(net, kind)
    size = 8 if output == "probabilities" else 3
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(4, 2, 3, dtype=dtype)
        out = net(x)
        assert (out.shape, out.dtype) == ((4, 2, size), dtype)
        if output == "probabilities":
            assert out.min() >= 0
            assert torch.allclose(out.float().sum(-1), torch.ones(4, 2), atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(4, 3)).dtype == torch.float32
    assert net(torch.zeros(0, 3)).shape == (0, size)
    assert replaced.before == 9
    assert replaced.after == trainable(net)
    assert str(replaced).startswith(f"Circuit 0, 3 to {size}, replaced by {kind} (")
    assert replace_circuits(net, kind) == []


@pytest.mark.parametrize("kind", LAYER_TWINS)
def test_twins_copy_pickle_and_load(kind):
    net, other = model(), model()
    replace_circuits(net, kind)
    replace_circuits(other, kind)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    other.load_state_dict(net.state_dict())
    x = torch.randn(6, 5)
    net.eval(), other.eval()
    for same in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(same(x), net(x))
    with pytest.raises(RuntimeError, match=r"Missing key|another circuit|Unexpected key"):
        model().load_state_dict(net.state_dict())


@pytest.mark.parametrize("kind", LAYER_TWINS)
def test_only_the_layers_own_weights_change_and_no_random_numbers_are_drawn(kind):
    net, state = model(), torch.get_rng_state()
    before = {name: p.clone() for name, p in net.named_parameters() if not name.startswith("1.")}
    replace_circuits(net, kind)
    assert torch.equal(torch.get_rng_state(), state)
    after = dict(net.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items())
    net(torch.randn(6, 5))
    torch.set_rng_state(state)
    net(torch.randn(6, 5))
    assert torch.equal(torch.get_rng_state(), (torch.set_rng_state(state), torch.randn(6, 5), torch.get_rng_state())[2])


def test_the_untrained_circuit_is_the_circuit_and_gets_no_gradient():
    net, x = model(ring(train_coefficients=True)), torch.randn(6, 5)
    expected = net(x)
    (replaced,) = replace_circuits(net, "untrained")
    assert torch.allclose(net(x), expected)
    assert (replaced.before, replaced.after) == (12, 0)
    net(x).sum().backward()
    assert net[0].weight.grad.any()
    assert [name for name, p in net.named_parameters() if p.grad is None] == [
        "1.circuit.weights",
        "1.circuit.coefficients",
    ]


def entangled():
    """Two qubits, a block that is opened, and weights, one of which only a gate on both has."""
    x, w = ParameterVector("x", 2), ParameterVector("w", 4)
    block = QuantumCircuit(2)
    block.ry(w[1], 0)
    block.cx(0, 1)
    circuit = QuantumCircuit(2)
    circuit.ry(x[0], 0)
    circuit.rzz(w[0], 0, 1)
    circuit.append(block.to_gate(), [1, 0])
    circuit.cp(x[1] * w[0], 0, 1)
    circuit.barrier()
    circuit.rx(w[3], 1)
    circuit.crx(w[2], 0, 1)
    return Ansatz(circuit, list(x), list(w))


def test_a_product_circuit_keeps_gates_on_one_qubit_and_their_weights():
    found = product_circuit(entangled())
    assert found.weights == [1, 3]
    assert found.removed == 4
    assert [p.name for p in found.ansatz.weights] == ["w[1]", "w[3]"]
    assert found.ansatz.num_inputs == 2  # x[1] stays an input, without an effect
    layer = QuantumLayer(entangled(), "expectations", "torch")
    net, x = nn.Sequential(layer), torch.tensor([[0.3, 0.9]])
    w = layer.weights.detach().clone()
    replace_circuits(net, "product")
    assert torch.equal(net[0].circuit.weights, w[[1, 3]])
    expected = torch.stack([x[0, 0].cos(), w[1].cos() * w[3].cos()])
    assert torch.allclose(net(x)[0], expected, atol=1e-6)
    rows = torch.randn(1, 4)
    expected = torch.stack([x[0, 0].cos(), rows[0, 1].cos() * rows[0, 3].cos()])
    assert torch.allclose(net[0](x, rows)[0], expected, atol=1e-6)


def test_a_product_circuit_keeps_engine_noise_and_observables():
    observables = [{"Z0Z1": 0.5, "X0": 0.25}, "Y2"]
    layer = ring(observables=observables, train_coefficients=True, noise={"depolarizing": 0.1})
    with torch.no_grad():
        layer.coefficients.mul_(2)
    net = nn.Sequential(layer)
    coefficients = layer.coefficients.detach().clone()
    replace_circuits(net, "product")
    inner = net[0].circuit
    assert (inner.observables, inner.engine_name, inner.engine.engine) == (layer.observables, "NoisySimulator", "torch")
    assert inner.engine.noise == layer.engine.noise
    assert torch.equal(inner.coefficients, coefficients)
    assert trainable(net) == trainable(layer)
    assert net(torch.randn(3, 3)).shape == (3, 2)


def test_a_circuit_without_entanglement_is_its_own_product():
    layer = QuantumLayer("layered", circuit={"num_qubits": 2, "entanglement": "none"}, engine="torch")
    net, x = nn.Sequential(layer), torch.randn(4, 2)
    expected = net(x)
    (replaced,) = replace_circuits(net, "product")
    assert "this twin is the same circuit" in str(replaced)
    assert torch.allclose(net(x), expected)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10_000))
def test_a_whole_series_begins_as_the_circuit(qubits, depth, seed):
    torch.manual_seed(seed)
    layer = QuantumLayer("layered", circuit={"num_qubits": qubits, "depth": depth}, engine="torch").double()
    net, x = nn.Sequential(layer), torch.randn(5, qubits, dtype=torch.float64)
    expected = net(x)
    replace_circuits(net, "fitted_series")
    assert torch.allclose(net(x), expected, atol=1e-7)  # probabilities of 0 become 1e-9
    assert net[0].together == qubits


def test_a_large_series_has_products_of_two_angles():
    layer = QuantumLayer("layered", "expectations", circuit={"num_qubits": 8, "depth": 2}, engine="torch")
    net, x = nn.Sequential(layer), 6.3 * torch.rand(300, 8)
    expected = net(x)
    replace_circuits(net, "fitted_series")
    assert net[0].together == 2
    assert net[0].coefficients.shape == (1 + 8 * 4 + 28 * 16, 8)
    assert torch.allclose(net(x)[:, 0], expected[:, 0], atol=1e-5)  # Z of the first qubit depends on one angle
    left = (net(x) - expected).square().mean() / expected.square().mean()
    assert left < 0.9  # of the outputs that depend on up to eight


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (2, 5), (5, 2)])
def test_a_bypass_repeats_or_sums_inputs(inputs, outputs):
    layer = QuantumLayer(
        "layered", "expectations", circuit={"num_qubits": inputs}, observables=["Z0"] * outputs, engine="torch"
    )
    net, x = nn.Sequential(layer), torch.randn(4, inputs)
    (replaced,) = replace_circuits(net, "bypass")
    expected = {3: x, 5: x[:, [0, 1, 0, 1, 0]], 2: None}[outputs]
    if expected is None:
        expected = torch.stack([x[:, 0] + x[:, 2] + x[:, 4], x[:, 1] + x[:, 3]], -1)
    assert torch.allclose(net(x), expected)
    assert replaced.after == 0


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 8))
def test_an_mlp_has_as_many_parameters_as_possible(qubits, weights, outputs):
    x, w = ParameterVector("x", qubits), ParameterVector("w", weights)
    circuit = QuantumCircuit(1)
    for parameter in (*x, *w):
        circuit.ry(parameter, 0)
    layer = QuantumLayer(Ansatz(circuit, list(x), list(w)), "expectations", "torch", observables=["Z0"] * outputs)
    net = nn.Sequential(layer)
    (replaced,) = replace_circuits(net, "mlp")
    possible = [(qubits + 1) * h + (h + 1) * outputs for h in range(1, 60)]
    assert abs(replaced.after - weights) == min(abs(count - weights) for count in possible)


def test_shuffled_inputs_are_those_of_other_rows():
    layer = ring()
    x = torch.randn(7, 3)
    answers = layer(x).detach()
    net = nn.Sequential(layer)
    replace_circuits(net, "shuffled_inputs")

    def sources(out):
        return [int((answers - row).abs().sum(-1).argmin()) for row in out]

    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append(tuple(sources(net(x))))
        assert sorted(drawn[-1]) == list(range(7))
        assert all(source != k for k, source in enumerate(drawn[-1]))
    assert len(set(drawn)) > 10
    torch.manual_seed(0)
    assert tuple(sources(net(x))) == drawn[0]
    net.eval()
    first = sources(net(x))
    torch.manual_seed(5)
    assert sources(net(x)) == first
    whole = net(torch.stack([x, x + 1], 1))  # (7, 2, 3): sequences move as a whole
    assert torch.allclose(whole[:, 0], answers[first], atol=1e-6)
    with pytest.warns(UserWarning, match="one row cannot be shuffled"):
        assert torch.allclose(net(x[:1]), answers[:1], atol=1e-6)
    net(x[:1])  # warns only once
    net(x).sum().backward()
    assert net[0].circuit.weights.grad.any()


def test_a_shared_layer_gets_one_twin():
    layer = ring()
    net = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer), "c": ring()})
    replaced = replace_circuits(net, "linear")
    assert [each.name for each in replaced] == ["a", "c"]
    assert net["a"] is net["b"][0] is not net["c"]


@pytest.mark.parametrize("kind", ["untrained", "product", "linear", "tanh"])
def test_circuits_without_inputs(kind):
    circuit, w = QuantumCircuit(1), ParameterVector("w", 1)
    circuit.ry(w[0], 0)
    net = nn.Sequential(QuantumLayer(Ansatz(circuit, weights=list(w)), "expectations", "torch"))
    replace_circuits(net, kind)
    assert net[0]().shape == (1, 1)


def without_inputs():
    circuit, w = QuantumCircuit(1), ParameterVector("w", 1)
    circuit.ry(w[0], 0)
    return QuantumLayer(Ansatz(circuit, weights=list(w)), engine="torch")


def products():
    circuit, x = QuantumCircuit(2), ParameterVector("x", 2)
    circuit.ry(x[0] * x[1], 0)
    circuit.ry(x[0], 1)
    return QuantumLayer(Ansatz(circuit, list(x)), engine="torch")


def shared():
    first, second = ring(), ring()
    second.weights = first.weights
    return nn.ModuleList([first, second])


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        (lambda: nn.Linear(2, 2), "linear", "Linear has no QuantumLayer once __init__ and configure_model have run"),
        (ring, "linear", "put the layer into a module"),
        (model, "lienar", "'lienar'; it must be one of untrained, product, linear"),
        (lambda: model(QuantumAttention(4, 2)), "mlp", r"1.series \(ScoreSeries\) would stay"),
        (lambda: nn.Sequential(without_inputs()), "mlp", "no inputs. Use untrained, product, linear, tanh"),
        (lambda: nn.Sequential(without_inputs()), "bypass", "no inputs"),
        (lambda: nn.Sequential(without_inputs()), "shuffled_inputs", "no inputs to shuffle"),
        (lambda: nn.Sequential(without_inputs()), "fitted_series", "no inputs"),
        (lambda: nn.Sequential(products()), "fitted_series", r"is not linear in x\[0\].*Use mlp, tanh \(0\)"),
        (shared, "linear", "1 and 0 are two layers that share their weights"),
    ],
)
def test_what_has_no_twin_is_refused(module, kind, message):
    with pytest.raises(NoTwinError, match=message):
        replace_circuits(module(), kind)


@pytest.mark.parametrize("kind", LAYER_TWINS)
def test_weights_and_states_from_outside(kind):
    net = nn.Sequential(ring())
    replace_circuits(net, kind)
    x, weights, state = torch.randn(4, 3), torch.randn(4, 9), torch.randn(4, 8)
    if kind in ("product", "shuffled_inputs"):
        assert net[0](x, weights).shape == (4, 3)
    else:
        with pytest.raises(NoTwinError, match=f"'{kind}'; the layer gets its weights.*Use product, shuffled_inputs"):
            net[0](x, weights)
    if kind in CLASSICAL:
        with pytest.raises(NoTwinError, match="gets its state from outside"):
            net[0](x, state=state)
    else:
        assert net[0](x, state=state).shape == (4, 3)


def test_a_model_with_twins_of_another_kind_is_refused():
    net = model()
    replace_circuits(net, "linear")
    with pytest.raises(NoTwinError, match="the model has 'linear' already"):
        replace_circuits(net, "tanh")


def test_a_control_of_quantum_attention_has_no_circuit():
    net = nn.Sequential(QuantumAttention(4, 2, phi="series"), ring())
    replace_circuits(net, "linear")


def test_a_product_on_a_sampler_runs_there_and_a_series_is_exact():
    from lightning_qsgd.quantum import ShotSampler

    layer = QuantumLayer("ring", "expectations", ShotSampler(shots=10), circuit={"num_qubits": 2, "depth": 1})
    net, x = nn.Sequential(layer), torch.randn(3, 2)
    exact = QuantumLayer(layer.ansatz, "expectations", "torch", initial=layer.weights.detach())(x)
    series = copy.deepcopy(net)
    replace_circuits(series, "fitted_series")
    assert torch.allclose(series(x), exact, atol=1e-6)
    replace_circuits(net, "product")
    net(x)
    assert net[0].circuit.shots == 30
    assert layer.shots == 0


def test_the_named_circuits_of_the_library_have_products():
    for name in ("ring", "layered", "superposition"):
        found = product_circuit(named_circuit(name))
        assert found.removed
        assert len(found.ansatz.normal_form.components()) == found.ansatz.num_qubits
