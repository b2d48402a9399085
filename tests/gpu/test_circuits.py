"""Circuits on a GPU: values and gradients of simulator, series and layers are the CPU's."""

import copy

import numpy as np
import pytest
import torch

from lightning_qsgd.models import QuantumAttention, QuantumHead
from lightning_qsgd.quantum import (
    CircuitSimulator,
    FourierSurrogate,
    QuantumLayer,
    QuantumNetwork,
    ScoreSeries,
    layered_circuit,
    superposition_circuit,
)
from tests.gpu.common import DEVICE, GPU

pytestmark = GPU
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


def values_and_gradients(function, inputs, device):
    """Output and gradients of a function of tensors, on the CPU."""
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).cos().to(out)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    assert {x.device.type for x in (out, *gradients)} == {device}
    return [x.detach().cpu() for x in (out, *gradients)]


def assert_same(function, inputs, tolerance):
    for ours, theirs in zip(*(values_and_gradients(function, inputs, device) for device in (DEVICE, "cpu"))):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_qubits", "depth"), [(2, 1), (4, 2), (10, 2)])
def test_simulator(num_qubits, depth, dtype):
    ansatz = superposition_circuit(num_qubits, depth)
    inputs = [torch.randn(16, ansatz.num_inputs, dtype=dtype), torch.randn(ansatz.num_weights, dtype=dtype)]
    assert_same(CircuitSimulator(ansatz), inputs, 10 * TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_surrogate(dtype):
    ansatz = superposition_circuit(4, 2)
    surrogate = FourierSurrogate.fit(QuantumNetwork(ansatz), np.linspace(0, 1, ansatz.num_weights))
    assert_same(surrogate, [torch.randn(300, 4, dtype=dtype)], 10 * TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("engine", ["simulator", "network"])
@pytest.mark.parametrize("output", ["probabilities", "expectations"])
def test_layer(output, engine, dtype):
    ansatz = layered_circuit(3, 2)
    layer = QuantumLayer(ansatz, output, "simulator" if engine == "simulator" else QuantumNetwork(ansatz)).to(dtype)
    inputs = torch.randn(5, 3, dtype=dtype)
    found = []
    for device in (DEVICE, "cpu"):
        layer.to(device).zero_grad()
        found.append([*values_and_gradients(layer, [inputs], device)])
        layer(inputs.to(device)).square().sum().backward()
        found[-1].append(layer.weights.grad.cpu())
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, atol=100 * TOLERANCES[dtype], rtol=1e-4)


@pytest.mark.parametrize("readout", ["probability", "expectation", "amplitude"])
def test_score_series(readout):
    series = ScoreSeries(3, readout=readout).double()
    there = copy.deepcopy(series).to(DEVICE)
    for part in (series, there):
        part().square().sum().backward()
    torch.testing.assert_close(there().detach().cpu(), series().detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(there.weights.grad.cpu(), series.weights.grad, atol=1e-11, rtol=0)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["head", "attention"])
def test_models_run_their_circuits_outside_of_autocast(kind, autocast):
    module = (QuantumHead(8, 3) if kind == "head" else QuantumAttention(8, 2)).to(DEVICE)
    x = torch.randn(4, 8, device=DEVICE) if kind == "head" else torch.randn(4, 5, 8, device=DEVICE)
    exact = module(x)
    with torch.autocast(DEVICE, dtype=autocast or torch.float32, enabled=autocast is not None):
        out = module(x)
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    torch.testing.assert_close(out.float(), exact, atol=0.1 if autocast else 1e-6, rtol=0.1)
