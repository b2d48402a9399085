"""Angles as functions of inputs and weights: linear forms, and any expression of Qiskit's in torch."""

import math
import pickle

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector

from lightning_qsgd.quantum import Ansatz
from lightning_qsgd.quantum.angles import Angles, compiled, linear_angle


def test_linear_angle():
    x = ParameterVector("x", 2)
    assert linear_angle(0.5) == (0.5, {})
    constant, coefficients = linear_angle(2 * x[0] - x[1] + 0.25)
    assert constant == pytest.approx(0.25)
    assert coefficients == {x[0]: pytest.approx(2), x[1]: pytest.approx(-1)}
    for angle in (x[0] * x[1], x[0].sin(), x[0].sign(), x[0].abs()):
        with pytest.raises(ValueError, match="not linear"):
            linear_angle(angle)


x, w = ParameterVector("x", 2), ParameterVector("w", 2)
EXPRESSIONS = [
    (math.pi - x[0]) * (math.pi - x[1]), x[0].sin() + 2, x[0].cos() / 3, x[1].tan(), (x[0] / 3).arcsin(),
    (x[0] / 3).arccos(), x[0].arctan(), x[1].exp(), x[0].abs().log(), x[0].abs(), x[0].sign() * x[1],
    x[0] ** 2, 2 ** x[1], x[0].conjugate() * w[0], w[0] * w[1], w[1].sin(), 1 / w[0], x[0].abs() ** 0.5,
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_expressions_are_what_qiskit_binds_and_differentiable(expression):
    parameters = [*x, *w]
    rng = np.random.default_rng(0)
    function = compiled(expression, parameters)
    for _ in range(5):
        values = rng.uniform(-1, 1, 4)
        bound = expression.bind({p: v for p, v in zip(parameters, values, strict=True) if p in expression.parameters})
        tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
        ours = function(*tensors)
        assert ours.item() == pytest.approx(bound.numeric(), rel=1e-12)
        ours.backward()
        assert any(t.grad is not None for t in tensors)


def test_shared_and_row_angles_stay_apart():
    angles = Angles(list(x), list(w), [x[0] + w[0], w[0] * w[1], x[0] * w[1], w[0] * w[1]])
    assert (len(angles.rows), len(angles.shared), angles.is_linear) == (1, 1, False)  # w[0] * w[1] only once
    rows, shared = angles.extend(torch.ones(3, 2), torch.tensor([2.0, 5.0]))
    assert (rows.shape, shared.shape) == ((3, 3), (3,))
    assert (rows[0].tolist(), shared.tolist()) == ([1, 1, 5], [2, 5, 10])
    np.testing.assert_allclose(angles.values(np.ones((1, 2)), np.array([2.0, 5.0])), [[3, 10, 5, 10]])
    assert angles.depends.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1]]
    by_inputs, by_weights = angles.jacobian(np.ones((1, 2)), np.array([2.0, 5.0]), np.arange(4))
    assert by_inputs[0].tolist() == [[1, 0], [0, 0], [5, 0], [0, 0]]
    assert by_weights[0].tolist() == [[1, 0], [5, 2], [0, 1], [5, 2]]
    assert pickle.loads(pickle.dumps(angles)).extend(torch.ones(3, 2), torch.ones(2))[0].shape == (3, 3)


def test_outside_of_its_domain_an_angle_is_nan():
    for expression in (x[0].log().sign(), ((-1) ** x[0]).abs().sign(), x[0].arcsin()):
        value = compiled(expression, list(x))(torch.tensor(-1.7), torch.tensor(0.0))
        assert value.isnan()


def test_what_has_no_real_angle_is_refused():
    circuit, y = QuantumCircuit(1), Parameter("y")
    circuit.rx((1j * y).exp(), 0)
    with pytest.raises(ValueError, match="has complex numbers, which angles cannot have"):
        Ansatz(circuit, [y])
