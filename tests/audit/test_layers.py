"""Circuits whose split is known, and classical parts in their place."""

import json
from dataclasses import asdict

import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit_machine_learning.connectors import TorchConnector
from torch import nn

from lightning_qsgd.audit.layers import Recorder, circuit_layers, noise_power
from lightning_qsgd.audit.model_audit import audit_model
from lightning_qsgd.audit.split import Series, shares
from lightning_qsgd.quantum import AerSampler, Ansatz, QuantumLayer, QuantumNetwork, layered_circuit
from tests.audit.models import circuit, small, trainer


def audited(module, **options):
    (found,) = audit_model(trainer(), module, metric="val/accuracy", **options)
    json.loads(json.dumps(asdict(found), allow_nan=False))
    return found


def reads(module, *weights):
    """Let the second class win where this sum of outputs is above 0."""
    with torch.no_grad():
        module.read.weight.copy_(torch.tensor([[-w for w in weights], list(weights)]))
        module.read.bias.zero_()
    return module


def by_name(found):
    return {replacement.name: replacement for replacement in found.replacements}


def test_a_product_circuit_is_single_angle_and_loses_nothing():
    found = audited(reads(small("product"), 1.0, 0.5))
    assert found.shares.multi < 1e-9
    assert found.shares.rest == 0
    assert found.shares.constant + found.shares.single == pytest.approx(1)
    assert [row.rows for row in found.per_output] == [300, 300]
    assert (found.name, found.outputs, found.rows, found.terms) == ("layer", ["Z0", "Z1"], [300, 300], 9)
    tried = by_name(found)
    assert tried["single-angle part"].value == found.metric.value
    assert (tried["single-angle part"].lost, tried["single-angle part"].gained) == (0, 0)
    assert tried["single-angle part"].reproduced == pytest.approx(1)
    assert found.metric.examples == 300
    assert tried["constant"].value < found.metric.value
    for true, classical in found.points:
        assert true == pytest.approx(classical, abs=1e-5)


def test_a_parity_is_multi_angle_and_a_series_of_two_angles_does_it():
    found = audited(reads(small("parity"), 0.0, 1.0))
    assert found.per_output[0].multi < 1e-9
    assert found.per_output[1].multi > 0.9
    assert found.metric.value == 1
    tried = by_name(found)
    assert [tried[name].terms for name in ("constant", "single-angle part", "classical series")] == [1, 5, 9]
    assert tried["classical series"].value == 1
    assert tried["single-angle part"].value < 0.8
    lost, gained = tried["single-angle part"].lost, tried["single-angle part"].gained
    assert found.metric.value - tried["single-angle part"].value == pytest.approx((lost - gained) / 300, abs=1e-6)
    assert found.compared == "classical series"


def test_a_circuit_that_ignores_its_inputs_is_constant():
    module = small("constant", output="probabilities")
    found = audited(module)
    assert found.shares.constant == pytest.approx(1)
    assert found.shares.power == pytest.approx(1 / 16)
    assert by_name(found)["constant"].value == found.metric.value
    assert found.outputs == ["P(00)", "P(01)", "P(10)", "P(11)"]


def test_shots_are_the_rest():
    shots, ansatz = 64, circuit("product")
    layer = QuantumLayer(ansatz, "expectations", QuantumNetwork(ansatz, AerSampler(shots=shots)))
    found = circuit_layers(nn.Sequential(layer))["0"]
    inputs = 3 * torch.rand(2000, 2, dtype=torch.float64) - 1.5
    noise = noise_power(found, inputs)
    exact = inputs[:512].cos()
    torch.testing.assert_close(noise, (1 - exact.square()).mean(0) / shots, rtol=0.2, atol=0)
    outputs = layer(inputs).detach()
    whole, each = shares(inputs, outputs, (3, 3), noise)
    assert whole.rest == pytest.approx((noise.sum() / outputs.square().mean(0).sum()).item(), rel=0.1)
    assert whole.multi < 0.2 * whole.rest
    assert sum(whole.parts().values()) == pytest.approx(1)
    assert whole.power == pytest.approx(sum(row.power for row in each) / 2)


def test_a_layer_on_a_sampler_is_audited_and_its_circuits_counted():
    ansatz = circuit("product")
    sampler = AerSampler(shots=32)
    module = small("product", engine=QuantumNetwork(ansatz, sampler), rows=60, batch_size=60)
    before = sampler.noise_position
    found = audited(module)
    assert found.shares.rest > 0
    assert found.circuits == 4 * 60  # validation, training, two fresh answers; none where the layer is replaced
    assert found.shots == 32 * found.circuits
    assert sampler.noise_position == before
    assert "No refitted series: 9 terms take 90 rows or more, and there are 60" in found.notes[0]


def test_a_connector_over_a_samplerqnn_is_audited():
    ansatz = layered_circuit(2, 1)
    module = reads(small("product", rows=100, batch_size=50), 1.0, 0.0)
    module.layer = TorchConnector(QuantumNetwork(ansatz).qnn)
    module.layer.ansatz, module.read = ansatz, nn.Linear(4, 2)  # outcome probabilities
    found = audited(module)
    assert found.engine == "SamplerQNN on ExactSampler"
    assert found.circuits is None
    assert found.shares.rest < 1e-12
    assert found.shares.constant > 0.4
    assert found.outputs[0] == "output 0"
    assert by_name(found)["classical series"].reproduced == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_split_is_said_and_a_constant_still_tried():
    x = Parameter("x")
    gates = QuantumCircuit(1)
    gates.rx(x / 2, 0)
    module = small("product")
    module.layer, module.read = QuantumLayer(Ansatz(gates, [x])), nn.Linear(2, 2)
    found = audited(module)
    assert found.shares is None
    assert found.notes == ["Not split by angles: Input x enters a gate by the angle x/2, at frequencies of 0.5."]
    assert list(by_name(found)) == ["constant"]
    few = audited(small("product", rows=20))
    assert few.notes[0] == "Not split by angles: 20 rows."
    assert few.shares is None


def test_a_layer_that_is_never_asked():
    module = small("product")
    module.spare = QuantumLayer(circuit("product"))
    findings = {found.name: found for found in audit_model(trainer(), module, metric="val/accuracy")}
    assert findings["spare"].notes == ["It was never called on the validation data."]
    assert findings["spare"].replacements == []


def test_answers_have_the_layers_shape_and_dtype():
    layer = QuantumLayer(circuit("product"), "expectations").to(torch.bfloat16)
    recorder = Recorder(circuit_layers(nn.Sequential(layer))["0"])
    inputs = torch.zeros(5, 7, 2, dtype=torch.bfloat16)
    assert recorder._record(inputs).shape == (5, 7, 2)
    assert recorder.seen == 35
    answer = recorder.stand_in(Series([], 0, torch.tensor([[0.5, -0.5]], dtype=torch.float64)))[2](inputs)
    assert (answer.shape, answer.dtype) == ((5, 7, 2), torch.bfloat16)
    assert answer[0, 0].tolist() == [0.5, -0.5]
