import pytest
import torch
from torch import nn

from lightning_qsgd.models import QuantumHead, TransformerClassifier
from lightning_qsgd.quantum import AerSampler, ExactSampler

FEATURES = torch.randn(6, 8)


def test_angles_circuit_scores():
    head = QuantumHead(8, 3)
    assert head(FEATURES).shape == (6, 3)
    by_hand = head.classify(head.circuit(head.reduce(FEATURES)))
    torch.testing.assert_close(head(FEATURES), by_hand)
    assert head.circuit.observables == ("Z0", "Z1", "Z2", "Z3", "Z0Z1", "Z1Z2", "Z2Z3")
    assert head.circuit.weights.shape == (12,)
    head(FEATURES).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_sampler_runs_the_same_head():
    simulated, run = QuantumHead(8, 3, num_qubits=2), QuantumHead(8, 3, num_qubits=2, sampler=ExactSampler())
    run.load_state_dict(simulated.state_dict())
    torch.testing.assert_close(run(FEATURES), simulated(FEATURES), atol=1e-6, rtol=0)
    run(FEATURES).sum().backward()
    simulated(FEATURES).sum().backward()
    torch.testing.assert_close(run.reduce.weight.grad, simulated.reduce.weight.grad, atol=1e-5, rtol=0)
    assert run.circuit.circuits == 6 + 6 * (1 + 2 * (4 + 4 + 2))


@pytest.mark.parametrize(
    ("options", "weights"),
    [({"depth": 1}, 4), ({"encoding": "angle"}, 12), ({"entanglement": "none"}, 12), ({"num_qubits": 2}, 6)],
)
def test_options(options, weights):
    head = QuantumHead(8, 3, **options)
    assert head.circuit.weights.shape == (weights,)
    assert head(FEATURES).shape == (6, 3)
    assert QuantumHead(8, 3, observables=["Z0"], sampler=AerSampler(shots=8))(FEATURES).shape == (6, 3)
    with pytest.raises(ValueError, match="Invalid encoding: 'amplitude'"):
        QuantumHead(8, 3, encoding="amplitude")


@pytest.mark.parametrize(
    ("options", "inputs", "weights"),
    [
        ({"circuit": "ring", "num_qubits": 3}, 3, 18),
        ({"circuit": "ring", "encoding": "iqp", "options": {"gates": ["ry"], "reuploading": True}}, 4, 8),
        ({"circuit": "brick", "num_qubits": 3, "encoding": "amplitude"}, 8, 12),
        ({"circuit": "efficient_su2", "entanglement": "full", "num_qubits": 2}, 2, 12),
        ({"circuit": "tree_tensor", "depth": None}, 4, 7),
    ],
)
def test_any_circuit_of_the_library(options, inputs, weights):
    head = QuantumHead(8, 3, **options)
    assert (head.reduce.out_features, head.circuit.ansatz.num_weights) == (inputs, weights)
    head(FEATURES).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_observables_and_noise_reach_the_circuit():
    sums = [{"X0": 0.5, "Z0Z1": 0.5}, "Y1"]
    head = QuantumHead(8, 3, num_qubits=2, observables=sums, noise={"readout": 0.1})
    assert head.circuit.observables == ("0.5 X0 + 0.5 Z0Z1", "Y1")
    assert head.circuit.engine_name == "NoisySimulator"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"circuit": "rings"}, "Invalid circuit: 'rings'; close: ring"),
        ({"circuit": "ring", "entanglement": "none"}, "Invalid option of circuit 'ring': 'entanglement'"),
        ({"circuit": "tree_tensor"}, "Invalid option of circuit 'tree_tensor': 'depth'"),
        ({"circuit": "ring", "options": {"num_qubits": 3}}, "'num_qubits' is an argument itself: num_qubits=4"),
    ],
)
def test_options_that_the_circuit_does_not_have_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QuantumHead(8, 3, **options)


def test_gradients_by_spsa():
    head = QuantumHead(8, 3, num_qubits=2, sampler=ExactSampler(), gradients="spsa")
    head(FEATURES).sum().backward()
    assert head.circuit.circuits == 6 * 3
    with pytest.raises(ValueError, match="Invalid gradients: 'spsa'; it must be 'shift', or 'spsa' with a sampler"):
        QuantumHead(8, 3, gradients="spsa")


def test_the_transformer_takes_any_head():
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    model = TransformerClassifier(vocab_size=10, num_classes=3, head=QuantumHead)
    assert isinstance(model.head, QuantumHead)
    assert model(tokens).shape == (2, 3)
    torch.manual_seed(0)
    default = TransformerClassifier(vocab_size=10, num_classes=3).eval()
    torch.manual_seed(0)
    linear = TransformerClassifier(vocab_size=10, num_classes=3, head=nn.Linear).eval()
    assert torch.equal(default(tokens), linear(tokens))
