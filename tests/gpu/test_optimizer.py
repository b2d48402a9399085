"""The optimizer and its displacement on a GPU: the CPU's numbers, by every kernel."""

import copy

import pytest
import torch

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.reference import ReferenceSuperpositionalGradientDescent
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from tests.gpu.common import DEVICE, GPU
from tests.optim.common import (
    COMMON_PERTURBATIONS,
    SCOPES,
    fitted,
    make_params,
    set_gradients,
    train_with_a_grad_scaler,
)

pytestmark = GPU


PERTURBATIONS = COMMON_PERTURBATIONS | {
    "matched": lambda: ControlPerturbation("matched", copy.deepcopy(fitted())),
}


def train(device, steps=20, optimizer_class=SuperpositionalGradientDescent, dtype=torch.float64, **options):
    """Weights after some steps, on the CPU; gradients are the same on all devices."""
    params = [p.detach().to(device).requires_grad_() for p in make_params(dtype)]
    optimizer = optimizer_class(params, lr=0.05, **options)
    for step in range(steps):
        source = make_params(dtype)
        set_gradients(source, step)
        for p, like in zip(params, source):
            p.grad = like.grad.to(device)
        optimizer.step()
    return [p.detach().cpu() for p in params]


def assert_equal(first, second, tolerance):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("combination", LEGAL_COMBINATIONS)
@pytest.mark.parametrize("scope", SCOPES)
def test_20_steps_are_the_cpus(scope, combination):
    target, scale, coupling = combination
    options = {"scope": scope, "target": target, "scale": scale, "coupling": coupling}
    first, second = (train(device, perturbation=copy.deepcopy(fitted()), **options) for device in (DEVICE, "cpu"))
    assert_equal(first, second, 1e-10)


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("scope", SCOPES)
def test_each_perturbation_gives_the_cpus_numbers(scope, name):
    steps = 3 if name == "live" else 20
    first, second = (
        train(device, steps, perturbation=PERTURBATIONS[name](), scope=scope, scale="adam")
        for device in (DEVICE, "cpu")
    )
    assert_equal(first, second, 1e-10)


@pytest.mark.parametrize("kernel", [{}, {"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_each_kernel_equals_the_reference(scope, kernel):
    options = {"scope": scope, "scale": "adam", "weight_decay": 0.1, "amsgrad": True}
    reference = train("cpu", optimizer_class=ReferenceSuperpositionalGradientDescent, **options)
    assert_equal(train(DEVICE, **options, **kernel), reference, 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_half_precision_follows_double_within_its_rounding(scope, fused, dtype):
    half, double = (
        [p.detach().to(DEVICE, other).requires_grad_() for p in make_params(dtype)] for other in (dtype, torch.float64)
    )
    before = [p.detach().clone() for p in double]
    source = make_params(dtype)
    set_gradients(source, 0)
    for params in (half, double):
        for p, like in zip(params, source):
            p.grad = like.grad.to(p)
        SuperpositionalGradientDescent(
            params, lr=0.05, quantum_weight=1.0, scale="adam", scope=scope, fused=fused
        ).step()
    for a, b, start in zip(half, double, before):
        assert a.dtype == dtype
        assert ((a.double() - b).abs() <= 3 * torch.finfo(dtype).eps * (start.abs() + 0.1)).all()


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_grad_scaler_shows_true_gradients_and_skips_steps(scope, fused):
    train_with_a_grad_scaler(DEVICE, fused=fused, scope=scope)


@pytest.mark.parametrize("source", ["circuit", "sign", "gaussian"])
def test_displacements_are_the_cpus(source):
    moved = []
    for device in (DEVICE, "cpu"):
        params = [p.detach().to(device).requires_grad_() for p in make_params()]
        displacement = MeasuredDisplacement(0.1, source=source)
        before = [p.detach().clone() for p in params]
        displacement.displace(params, step=3)
        moved.append([p.detach().cpu() for p in params])
        displacement.restore()
        assert all(torch.equal(p, q) for p, q in zip(params, before))
    assert_equal(*moved, 1e-10)


def test_a_state_of_a_gpu_continues_on_a_cpu():
    params = [p.detach().to(DEVICE).requires_grad_() for p in make_params()]
    first = SuperpositionalGradientDescent(params, lr=0.05, perturbation=copy.deepcopy(fitted()))
    others = None
    for step in range(4):
        if step == 2:
            others = [p.detach().cpu().requires_grad_() for p in params]
            second = SuperpositionalGradientDescent(others, lr=0.05, perturbation=CircuitPerturbation())
            second.load_state_dict(first.state_dict())
        source = make_params()
        set_gradients(source, step)
        for p, like in zip(params, source):
            p.grad = like.grad.to(DEVICE)
        first.step()
        if others is not None:
            for p, like in zip(others, source):
                p.grad = like.grad
            second.step()
    assert others is not None
    assert_equal([p.detach().cpu() for p in params], [p.detach() for p in others], 1e-10)
