import pytest
import torch
from torch import nn

from lightning_qsgd.models import (
    MLP,
    ComposedModel,
    Identity,
    Linear,
    QuantumBody,
    QuantumLSTM,
    Recurrent,
    SmallCNN,
    TransformerEncoder,
)
from lightning_qsgd.quantum import QuantumLayer, ShotSampler


@pytest.mark.parametrize(
    ("part", "shape", "out"),
    [
        (Identity, (2, 3), 6),
        (lambda shape: Linear(shape, features=4), (2, 3), 4),
        (lambda shape: MLP(shape, hidden=[5, 7], features=3, dropout=0.5), (6,), 3),
        (lambda shape: SmallCNN(shape, channels=[2, 3], features=5), (1, 8, 7), 5),
        (lambda shape: Recurrent(shape, hidden=4), (5, 2), 4),
        (lambda shape: Recurrent(shape, hidden=4, cell="lstm"), (5, 2), 4),
        (lambda shape: QuantumLSTM(shape, hidden=3, num_qubits=2), (3, 2), 3),
        (lambda shape: TransformerEncoder(shape, 8, 2, 8, 1), (5, 2), 8),
        (QuantumBody, (3,), 3),
        (lambda shape: QuantumBody(shape, "ring", 2, observables=["Z0", "X0Y1", {"Z0Z1": 0.5}]), (2,), 3),
        (lambda shape: QuantumBody(shape, "amplitude", 2), (4,), 2),
    ],
)
def test_each_part_says_how_many_features_it_gives(part, shape, out):
    module = part(shape)
    inputs = torch.randn(4, *shape, requires_grad=True)
    outputs = module(inputs)
    assert module.out_features == out
    assert outputs.shape == (4, out)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters() if p.numel())
    assert inputs.grad.any()


def test_a_model_is_its_three_parts_in_turn():
    torch.manual_seed(0)
    model = ComposedModel((1, 8, 8), 3, lambda shape: SmallCNN(shape, [2], features=2), "circuit")
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(model(x), model.head(model.body.circuit(model.encoder(x))))
    assert isinstance(model.head, nn.Linear)
    assert (model.body.circuit.ansatz.num_qubits, model.head.in_features, model.head.out_features) == (2, 2, 3)


def test_tokens_and_their_padding_reach_the_encoder():
    torch.manual_seed(0)
    model = ComposedModel(9, 2, "transformer").eval()
    tokens = torch.tensor([[1, 2, 8]])
    torch.testing.assert_close(model(tokens, tokens == 8), model(tokens[:, :2]))


class NoWidth(nn.Module):
    """A part of a user that does not say its width, and draws random numbers only in training."""

    def __init__(self, shape):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*shape, 5), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def test_a_part_without_a_width_is_asked_by_a_row():
    model = ComposedModel((3,), 2, NoWidth)
    assert model.head.in_features == 5
    assert model.encoder.training
    with pytest.raises(ValueError, match=r"Invalid encoder: Unflat maps a row \(1, 2, 3\) to \(1, 2, 3\); .*flatten"):
        ComposedModel((2, 3), 2, type("Unflat", (nn.Identity,), {}))


def test_a_sampler_is_not_run_to_find_a_width():
    sampler = ShotSampler(shots=8)
    model = ComposedModel((2,), 2, body=lambda shape: QuantumBody(shape, sampler=sampler))
    assert model.body.circuit.circuits == 0
    model(torch.zeros(3, 2))
    assert model.body.circuit.circuits == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ComposedModel((3,), 2, "cnm"), "Invalid encoder: 'cnm'; it must be one of identity, linear, mlp, cnn"),
        (lambda: ComposedModel((3,), 2, "cnn"), r"Invalid inputs: a CNN takes images .*, not \(3,\)"),
        (lambda: ComposedModel(100, 2), "Invalid encoder: it cannot be built for 100 token ids .*; use transformer"),
        (lambda: ComposedModel((8, 3), 2, "circuit"), r"Invalid inputs: a circuit takes features \(D,\), not \(8, 3\)"),
        (lambda: SmallCNN((1, 8, 3), [4, 4]), r"Invalid channels: \[4, 4\]; images of 8 x 3 pixels can be halved 1"),
        (lambda: Recurrent((3,)), r"Invalid inputs: a recurrent network takes windows \(T, F\), not \(3,\)"),
        (lambda: QuantumLSTM((3,)), r"Invalid inputs: a recurrent network takes windows \(T, F\), not \(3,\)"),
        (lambda: TransformerEncoder((3,)), r"Invalid inputs: a transformer takes tokens .*, not \(3,\)"),
        (lambda: Recurrent((3, 1), cell="rnn"), "Invalid cell: 'rnn'"),
        (lambda: MLP((3,), hidden=[4, 0]), r"Invalid hidden\[1\]: 0"),
        (lambda: MLP((3,), dropout=1.0), "Invalid dropout: 1.0"),
        (lambda: Linear((3,), 0), "Invalid features: 0"),
        (lambda: QuantumLSTM((3, 1), hidden=0), "Invalid hidden: 0"),
        (lambda: QuantumBody((30,)), "Invalid body: 30 features would need 30 qubits; .*Linear has an option features"),
        (lambda: QuantumBody((30,), num_qubits=6), "'ring' on 6 qubits has 6 inputs, and there are 30 features"),
        (lambda: QuantumBody((3,), options={"num_qubits": 3}), "Invalid options: 'num_qubits' is an argument itself"),
        (lambda: QuantumBody((3,), options={"deep": 3}), "Invalid option of circuit 'ring': 'deep'"),
        (lambda: QuantumBody((3,), gradients="spsa"), "Invalid gradients: 'spsa'; .*with a sampler"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_step_of_the_recurrent_circuit_by_hand():
    torch.manual_seed(0)
    lstm = QuantumLSTM((1, 2), hidden=3, num_qubits=2)
    assert isinstance(lstm.circuit, QuantumLayer)
    x = torch.randn(4, 1, 2)
    angles = lstm.enter(torch.cat([x[:, 0], torch.zeros(4, 3)], 1))
    _, enter, leave, new = lstm.leave(lstm.circuit(angles)).chunk(4, 1)
    torch.testing.assert_close(lstm(x), leave.sigmoid() * (enter.sigmoid() * new.tanh()).tanh())
