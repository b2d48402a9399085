"""What quantum attention adds to scores, with answers known by hand."""

import json
import math
from dataclasses import asdict

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_qsgd.audit.attention import ScoreRecorder, attention_layers, audit_head, multiplied, shift
from lightning_qsgd.audit.model_audit import audit_model
from lightning_qsgd.audit.passes import substituted
from lightning_qsgd.models import Attention, QuantumAttention
from tests.audit.models import trainer

SMALL = {"num_qubits": 2, "depth": 1}


def layer_of(*coefficients, gain=1.0, scale=1.0, **options):
    """Two heads that add gain * (a cos(x) + b sin(x) + ...), x = scale * score."""
    layer = QuantumAttention(8, 2, phi="series", gain=gain, scale=scale, **SMALL | options)
    with torch.no_grad():
        layer.series.coefficients.zero_()
        layer.series.coefficients[:, : len(coefficients)] = torch.tensor(coefficients)
    return layer


class Reader(L.LightningModule):
    """Attention in one or more layers over random tokens, two classes."""

    def __init__(self, *layers, mask=False):
        super().__init__()
        self.layers, self.read, self.mask = nn.ModuleList(layers), nn.Linear(8, 2), mask

    def forward(self, x):
        mask = (torch.arange(6) >= 4).expand(len(x), -1) if self.mask else None
        for layer in self.layers:
            x = layer(x, mask)
        return self.read(x.mean(1))

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def val_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x = 2 * torch.randn(40, 6, 8, generator=generator)
        with torch.no_grad():
            labels = self(x).argmax(1)  # what the model itself says: accuracy 1
        return DataLoader(TensorDataset(x, labels), 20)


def test_small_sines_are_lines():
    """sin(w s) is nearly w s: a temperature of 1 + gain * w."""
    layer, scores = layer_of(0.0, 1.0, gain=2.0, scale=0.01), torch.randn(2000, dtype=torch.float64)
    head = audit_head(layer, 0, scores)
    assert head.factor == pytest.approx(1.02, abs=1e-4)
    assert head.linear == pytest.approx(1, abs=1e-3)
    assert head.power == pytest.approx((2 * (0.01 * scores).sin()).square().mean().item(), rel=1e-5)
    assert head.score_spread == pytest.approx(scores.std(correction=0).item())
    assert (head.head, head.rows, sum(head.density) <= 2000) == (0, 2000, True)


def test_cosines_have_no_line_over_even_scores():
    scores = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)[:-1]
    head = audit_head(layer_of(1.0, 0.0), 1, scores)
    assert head.linear < 1e-5
    assert head.curved > 0.999
    assert head.head == 1
    assert sum((head.constant, head.linear, head.curved)) == pytest.approx(1)


def test_sine_over_a_period_by_hand():
    """Mean square 1/2; the line of least squares has slope 3 / pi^2 and explains 6 / pi^2 of it."""
    scores = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:-1]
    head = audit_head(layer_of(0.0, 1.0), 0, scores)
    assert head.power == pytest.approx(0.5, abs=1e-5)
    assert head.linear == pytest.approx(6 / math.pi**2, abs=1e-3)
    assert head.factor == pytest.approx(1 + 3 / math.pi**2, abs=1e-3)
    grid, true, line = map(torch.tensor, zip(*head.curve))
    torch.testing.assert_close(true, grid.sin(), atol=1e-3, rtol=0)
    torch.testing.assert_close(line, 3 / math.pi**2 * grid, atol=1e-3, rtol=0)


def test_a_head_that_adds_nothing():
    head = audit_head(layer_of(0.0, 0.0), 0, torch.randn(100, dtype=torch.float64))
    assert (head.constant, head.linear, head.curved, head.power, head.factor) == (0, 0, 0, 0, 1)
    same = audit_head(layer_of(1.0, 1.0), 0, torch.zeros(100, dtype=torch.float64))
    assert same.constant == pytest.approx(1)
    assert same.density == [100]


def test_a_circuits_constant_counts():
    """What the circuit answers to a score, its constant included."""
    layer = QuantumAttention(8, 2, gain=3.0, **SMALL)
    scores = torch.randn(50, dtype=torch.float64)
    probabilities = layer.series._simulator(scores.float()[:, None], layer.series.weights[1].expand(50, -1))
    expected = 3 * probabilities[:, 1:3].sum(1).double()
    torch.testing.assert_close(shift(layer, 1, scores), expected.detach(), atol=1e-5, rtol=0)
    assert audit_head(layer, 1, scores).constant > 0.1


@pytest.mark.parametrize("mask", [False, True])
def test_scores_that_occur(mask):
    layer = QuantumAttention(8, 2, heads=[1], **SMALL)
    x = torch.randn(3, 6, 8)
    recorder = ScoreRecorder(layer)
    padding = (torch.arange(6) >= 4).expand(3, -1) if mask else None
    expected = layer(x, padding)
    with substituted([recorder.change]):
        torch.testing.assert_close(layer(x, padding), expected)
    assert "attend" not in vars(layer)
    q, k, _ = layer.project_in(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    by_hand = ((q @ k.mT) / 2)[:, 1, :, : 4 if mask else 6].flatten()
    (scores,) = recorder.scores()
    torch.testing.assert_close(scores.sort()[0], by_hand.double().sort()[0].detach(), atol=1e-5, rtol=0)


def test_without_phi_attention_is_classical():
    layer, classical = QuantumAttention(8, 2, heads=[1], **SMALL), Attention(8, 2)
    classical.load_state_dict({k: v for k, v in layer.state_dict().items() if k.startswith("project")})
    x = torch.randn(2, 5, 8)
    with substituted([multiplied(layer, [1.0])]):
        torch.testing.assert_close(layer(x), classical(x))
    with substituted([multiplied(layer, [2.0])]):
        doubled = layer(x)
    with torch.no_grad():
        classical.project_in.weight[4:8] *= 2  # q of head 1
        classical.project_in.bias[4:8] *= 2
    torch.testing.assert_close(doubled, classical(x))


def test_layers_with_a_fixed_gain_of_0_have_no_phi():
    module = nn.Sequential(QuantumAttention(8, 2, gain=0.0, learn_gain=False, **SMALL), QuantumAttention(8, 2, **SMALL))
    assert list(attention_layers(module)) == ["1"]


def test_a_temperature_is_found_in_a_model():
    """gain * sin(w s) with a small w multiplies scores by 4: without it the model loses, with the line it does not."""
    torch.manual_seed(1)
    module = Reader(layer_of(0.0, 1.0, gain=3000.0, scale=0.001), mask=True)
    (found,) = audit_model(trainer(), module, metric="val/accuracy")
    json.loads(json.dumps(asdict(found), allow_nan=False))
    assert (found.name, found.source, found.engine, found.layers) == ("layers.0", "series", "simulator", 1)
    assert [head.factor for head in found.heads] == pytest.approx([4, 4], abs=0.01)
    assert found.heads[0].rows == 32 * 6 * 4  # of 2 x 16 sequences, without padding
    none, line = found.replacements
    assert (none.name, line.name, line.terms) == ("no Phi", "linear part", 1)
    assert found.metric.value == line.value == 1
    assert none.value < 1
    assert none.lost == round(40 * (1 - none.value))
    assert (none.reproduced, line.reproduced) == (0, pytest.approx(1, abs=1e-3))
    assert found.terms == len(module.layers[0].series.spectrum.free)


def test_several_layers_are_also_replaced_at_once():
    module = Reader(QuantumAttention(8, 2, **SMALL), QuantumAttention(8, 2, **SMALL))
    first, second = audit_model(trainer(), module, metric="val/accuracy")
    names = ["no Phi", "linear part", "no Phi in all 2 layers", "linear part in all 2 layers"]
    assert [replacement.name for replacement in first.replacements] == names
    assert first.replacements[2:] == second.replacements[2:]
    assert not any("attend" in vars(layer) for layer in module.layers)
