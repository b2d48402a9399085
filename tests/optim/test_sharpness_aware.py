"""SharpnessAware against its definition, on a function with known gradients."""

import copy

import pytest
import torch

from lightning_qsgd.optim import SharpnessAware
from tests.optim.common import assert_equal, make_params


def closure_of(optimizer, params, calls=None):
    """Loss sum(p^4): gradients 4 p^3 that depend on the place."""

    def closure():
        optimizer.zero_grad()
        loss = sum((p**4).sum() for p in params)
        loss.backward()
        if calls is not None:
            calls.append([p.detach().clone() for p in params])
        return loss

    return closure


def test_a_step_is_adamw_with_the_gradient_at_the_displaced_point():
    params, calls = make_params(), []
    twins = copy.deepcopy(params)
    optimizer = SharpnessAware(params, lr=0.1, weight_decay=0.2, radius=0.3)
    adamw = torch.optim.AdamW(twins, lr=0.1, weight_decay=0.2)
    for _ in range(3):
        before = [p.detach().clone() for p in params]
        loss = optimizer.step(closure_of(optimizer, params, calls))
        assert loss == sum((p**4).sum() for p in before)
        gradients = [4 * p**3 for p in before]
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        displaced = [p + 0.3 * g / norm for p, g in zip(before, gradients)]
        assert_equal(calls[-1], displaced, 1e-12)
        for twin, place in zip(twins, displaced):
            twin.grad = 4 * place**3
        adamw.step()
        assert_equal([p.detach() for p in params], [p.detach() for p in twins], 1e-12)


def test_radius_0_is_adamw_bit_for_bit():
    params = make_params()
    twins = copy.deepcopy(params)
    optimizer, adamw = SharpnessAware(params, radius=0.0), torch.optim.AdamW(twins, weight_decay=0.0)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, params))
        adamw.step(closure_of(adamw, twins))
    assert_equal([p.detach() for p in params], [p.detach() for p in twins])


def test_a_failing_second_evaluation_leaves_the_weights_as_they_were():
    params, calls = make_params(), []
    before = [p.detach().clone() for p in params]
    optimizer = SharpnessAware(params)
    closure = closure_of(optimizer, params, calls)

    def failing():
        if calls:
            raise RuntimeError("no data")
        return closure()

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(failing)
    assert_equal([p.detach() for p in params], before)


def test_hooks_fire_once_also_beside_a_plain_adamw():
    params, fired = make_params(), []
    torch.optim.AdamW(make_params())
    optimizer = SharpnessAware(params)
    optimizer.register_step_post_hook(lambda *_: fired.append(1))
    optimizer.step(closure_of(optimizer, params))
    assert fired == [1]


def test_what_it_refuses():
    with pytest.raises(ValueError, match="Invalid radius: -1"):
        SharpnessAware(make_params(), radius=-1)
    with pytest.raises(ValueError, match="Invalid closure: None"):
        SharpnessAware(make_params()).step()
    with pytest.raises(RuntimeError, match="left no gradients"):
        SharpnessAware(make_params()).step(lambda: torch.tensor(0.0))


def test_a_closure_that_accumulates_is_refused_before_anything_moves():
    params = make_params()
    before = [p.detach().clone() for p in params]
    optimizer = SharpnessAware(params)
    sum((p**2).sum() for p in params).backward()  # an earlier batch

    def closure():
        loss = sum((p**4).sum() for p in params)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="cannot accumulate them over batches: train with accumulate_grad_batches=1"):
        optimizer.step(closure)
    assert_equal([p.detach() for p in params], before)
    optimizer.zero_grad()
    optimizer.step(closure_of(optimizer, params))
    optimizer.step(closure_of(optimizer, params))
