"""foreach, fused, half precision, chunks: every way to compute a step gives the same numbers."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_qsgd.optim import (
    CircuitPerturbation,
    ControlPerturbation,
    SinePerturbation,
    SuperpositionalGradientDescent,
)
from lightning_qsgd.optim.superpositional import LEGAL_COMBINATIONS
from tests.optim.common import SCOPES, assert_equal, make_params, run, train_with_a_grad_scaler


class InOneCall(SinePerturbation):
    """The sine, asked for all blocks of a step at once."""

    blockwise = False


# ---- kernels


@pytest.mark.parametrize("combination", LEGAL_COMBINATIONS)
@pytest.mark.parametrize("scope", SCOPES)
def test_foreach_and_fused_equal_the_loop(scope, combination):
    target, scale, coupling = combination
    options = {"scope": scope, "target": target, "scale": scale, "coupling": coupling, "lr": 0.02, "amsgrad": True}
    loop, foreach, fused = (make_params() for _ in range(3))
    run(loop, foreach=False, **options)
    run(foreach, foreach=True, **options)
    run(fused, fused=True, **options)
    assert_equal(foreach, loop, 1e-12)
    assert_equal(fused, loop, 1e-12)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_fused_is_right_where_torchs_own_is_not(scope, weight):
    """torch's fused kernel on a CPU mixes up coordinates of a tensor and of its gradient that lie differently."""

    def make():
        transposed, plain, slices = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
        params = [transposed.T.contiguous().T, plain.clone(), torch.cat([slices, slices], 1)[:, :6]]
        return [p.requires_grad_() for p in params]

    def gradients(params, step):
        generator = torch.Generator().manual_seed(step)
        values = [torch.randn(5, 6, generator=generator) for _ in params]
        params[0].grad, params[1].grad, params[2].grad = values[0], values[1].T.contiguous().T, values[2]

    fused, loop = make(), make()
    options = {"scope": scope, "quantum_weight": weight, "lr": 0.1, "gradients": gradients}
    run(fused, fused=True, **options)
    run(loop, foreach=False, **options)
    assert_equal(fused, loop, 1e-6)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_grad_scaler_shows_true_gradients_and_skips_steps(scope, fused):
    train_with_a_grad_scaler("cpu", fused=fused, scope=scope)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_what_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match=rf"Invalid {name}: True; .*asks the perturbation"):
        SuperpositionalGradientDescent(make_params(), **{name: True})
    with pytest.raises(ValueError, match=rf"Invalid {name}: True"):
        SuperpositionalGradientDescent([{"params": make_params(), name: True}])


def test_foreach_and_fused_together_are_refused():
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        SuperpositionalGradientDescent(make_params(), foreach=True, fused=True)


# ---- dtypes, learning rates


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("fused", [None, True])
def test_half_precision_follows_double_within_its_rounding(dtype, scope, fused):
    """One step of 0.05: the perturbation is asked in float32, so only the weights' own rounding is left."""
    options = {"scope": scope, "scale": "adam", "quantum_weight": 1.0, "lr": 0.05, "steps": 1}
    half = make_params(dtype)
    double = [p.detach().double().requires_grad_() for p in half]
    before = [p.detach().clone() for p in double]
    run(half, fused=fused, **options)

    def same_gradients(params, step):
        for p, like in zip(params, half):
            p.grad = like.grad.double()

    run(double, gradients=same_gradients, **options)
    for a, b, start in zip(half, double, before):
        assert a.dtype == dtype
        tolerance = 3 * torch.finfo(dtype).eps * (start.abs() + 0.1)
        assert ((a.double() - b).abs() <= tolerance).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_tensor_as_learning_rate(scope, fused):
    tensor, number = make_params(), make_params()
    lr = torch.tensor(0.02, dtype=torch.float64)
    run(tensor, lr=lr, scope=scope, fused=fused, foreach=False)
    run(number, lr=0.02, scope=scope, foreach=False)
    assert_equal(tensor, number, 1e-12)
    assert lr == 0.02


# ---- scope all in chunks


@pytest.mark.parametrize("combination", LEGAL_COMBINATIONS)
@pytest.mark.parametrize("circuit", [False, True])
def test_chunks_equal_one_call(combination, circuit):
    """300,000 coordinates are two chunks; a chunk ends within the second tensor."""
    target, scale, coupling = combination
    options = {"scope": "all", "target": target, "scale": scale, "coupling": coupling, "lr": 0.01, "amsgrad": True}
    shapes = [(), (101, 1001), (0,), (200_003,), (3,)]
    in_chunks, at_once = make_params(shapes=shapes), make_params(shapes=shapes)
    perturbation = CircuitPerturbation() if circuit else SinePerturbation()
    twin = ControlPerturbation("frozen", copy.deepcopy(perturbation)) if circuit else InOneCall()
    steps = 1 if circuit else 2
    run(in_chunks, steps, perturbation=perturbation, **options)
    run(at_once, steps, perturbation=twin, **options)
    assert_equal(in_chunks, at_once, 1e-12)


class Largest(TorchDispatchMode):
    """The most bytes that a new tensor takes."""

    def __init__(self, known):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("combination", LEGAL_COMBINATIONS)
@pytest.mark.parametrize(("scope", "limit"), [("first_of_tensor", 8192), ("first_of_model", 8192), ("all", 2**18 * 8)])
def test_extra_memory_is_of_touched_coordinates_or_of_a_chunk(scope, limit, combination):
    target, scale, coupling = combination
    params = make_params(torch.float32, shapes=[(2000, 1000), (700,), (1000, 3000)])
    options = {"scope": scope, "target": target, "scale": scale, "coupling": coupling, "fused": True}
    optimizer = run(params, 1, **options)
    moments = [t for state in optimizer.state.values() for t in state.values()]
    with Largest([*params, *(p.grad for p in params), *moments]) as largest:
        optimizer.step()
    assert 0 < largest.bytes <= limit  # a tensor of the model's largest parameter would be 12 MB


def test_channels_last_weights_step_in_chunks_as_contiguous_ones():
    def make(memory_format):
        generator = torch.Generator().manual_seed(0)
        p = torch.randn(300, 100, 3, 3, generator=generator).to(memory_format=memory_format).requires_grad_()
        p.grad = torch.randn(300, 100, 3, 3, generator=generator).to(memory_format=memory_format)
        return p

    contiguous, last = make(torch.contiguous_format), make(torch.channels_last)
    assert not last.is_contiguous()
    for p in (contiguous, last):
        run([p], 2, gradients=lambda *_: None, scope="all", scale="adam", lr=0.1)
    torch.testing.assert_close(contiguous, last)
