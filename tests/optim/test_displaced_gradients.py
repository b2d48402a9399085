import copy
import pickle
import warnings

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lightning_qsgd.optim import (
    CircuitPerturbation,
    LinearSchedule,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)
from tests.optim.common import assert_equal, make_params, own_state, through_a_file

SHAPES = [(3, 5), (7,), ()]


def loss_of(params):
    return sum(((p - 1) ** 2 * p.detach().abs().add(1)).sum() for p in params)


def make(displacement, quantum_weight=0.0, shapes=SHAPES, **options):
    params = make_params(shapes=shapes)
    return params, SuperpositionalGradientDescent(
        params, lr=0.01, quantum_weight=quantum_weight, displacement=displacement, **options
    )


def closure_of(params, optimizer, seen=None):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        if seen is not None:
            seen.append([p.detach().clone() for p in params])
        return loss

    return closure


def sign(radius=0.1, **options):
    return MeasuredDisplacement(radius, source="sign", **options)


@pytest.mark.parametrize("source", ["circuit", "sign", "gaussian"])
def test_gradients_of_displaced_weights_move_the_exact_ones(source):
    """Without quantum weight it is AdamW on those gradients."""
    params, optimizer = make(MeasuredDisplacement(0.1, source=source))
    plain = make_params(shapes=SHAPES)
    adamw = torch.optim.AdamW(plain, lr=0.01, weight_decay=0)
    other = MeasuredDisplacement(0.1, source=source)
    for step in range(4):
        loss = optimizer.step(closure_of(params, optimizer))
        adamw.zero_grad()
        other.displace(plain, step)
        expected = loss_of(plain)
        expected.backward()
        other.restore()
        adamw.step()
        assert torch.equal(loss, expected)
        assert_equal(params, plain)


def test_the_block_and_the_closure_are_the_same():
    params, optimizer = make(sign(), quantum_weight=0.5)
    others, other = make(sign(), quantum_weight=0.5)
    for _ in range(3):
        optimizer.step(closure_of(params, optimizer))
        other.zero_grad()
        with other.displaced():
            loss_of(others).backward()
        other.step()
    assert_equal(params, others)


@pytest.mark.parametrize(("copies", "bias"), [(3, "centred"), (2, "antithetic"), (4, "antithetic")])
def test_copies_are_averaged(copies, bias):
    displacement = sign(copies=copies, bias=bias)
    params, optimizer = make(displacement)
    before = [p.detach().clone() for p in params]
    seen = []
    loss = optimizer.step(closure_of(params, optimizer, seen))
    assert len(seen) == copies
    points = [[x.clone().requires_grad_() for x in point] for point in seen]
    losses = [loss_of(point) for point in points]
    for value in losses:
        value.backward()
    torch.testing.assert_close(loss, sum(losses).detach() / copies)
    for p, *xs in zip(params, *points):
        torch.testing.assert_close(p.grad, sum(x.grad for x in xs) / copies)
    if bias == "antithetic":
        for b, *xs in zip(before, *seen):
            torch.testing.assert_close(sum(xs) / copies, b)


def test_a_gradient_that_is_missing_counts_zero_and_one_that_never_comes_stays_none():
    params, optimizer = make(sign(copies=4), shapes=[(3,), (3,), (3,)])
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(1)
        loss = params[0].sum() + (params[1].sum() if len(calls) == 1 else 0)
        loss.backward()
        return float(loss.detach())

    assert isinstance(optimizer.step(closure), float)
    assert params[0].grad.tolist() == [1, 1, 1]
    assert params[1].grad.tolist() == [0.25, 0.25, 0.25]
    assert params[2].grad is None


def test_an_odd_number_of_antithetic_copies_is_refused():
    params, optimizer = make(sign(copies=3, bias="antithetic"))
    with pytest.raises(ValueError, match="Invalid copies: 3; it must be even"):
        optimizer.step(closure_of(params, optimizer))


def test_a_closure_at_displaced_weights_is_called_once_as_it_is():
    params, optimizer = make(sign(copies=2))
    seen = []
    optimizer.displace(draw=1)
    there = [p.detach().clone() for p in params]
    optimizer.step(closure_of(params, optimizer, seen))
    (point,) = seen
    assert_equal(point, there)
    assert not optimizer.displacement.active
    assert float(params[0].detach().sub(there[0]).abs().min()) > 0.01  # it started from the exact weights


def test_a_step_whose_gradients_are_not_of_displaced_weights_is_refused():
    params, optimizer = make(sign())
    loss_of(params).backward()
    with pytest.raises(RuntimeError, match=r"step\(closure\).*optimizer\.displaced\(\)"):
        optimizer.step()
    with optimizer.displaced(), pytest.raises(RuntimeError, match=r"after the block of displaced\(\)"):
        optimizer.step()
    optimizer.step()
    with pytest.raises(RuntimeError, match="not displaced"):  # each step anew
        optimizer.step()


def test_a_closure_without_loss_is_refused_unless_the_gradients_are_there():
    """Lightning's manual optimization calls step() with a closure that does nothing."""
    params, optimizer = make(sign(copies=2))
    others, other = make(sign(copies=2))
    loss_of(params).backward()
    with pytest.raises(RuntimeError, match=r"closure returned no loss.*optimizer\.displaced\(\)"):
        optimizer.step(lambda: None)
    for p, o in ((params, optimizer), (others, other)):
        o.displacement.draws = 0
        o.zero_grad()
        for draw in range(2):
            with o.displaced(draw):
                loss_of(p).backward()
    assert optimizer.step(lambda: None) is None
    other.step()
    assert_equal(params, others)


def test_a_radius_of_zero_counts_and_changes_nothing():
    params, optimizer = make(sign(LinearSchedule(0.0, 0.0, 1)), quantum_weight=0.5)
    plain, other = make(None, quantum_weight=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        with optimizer.displaced():
            loss_of(params).backward()
        optimizer.step()
        other.step(closure_of(plain, other))
    assert_equal(params, plain)


def test_an_error_in_the_middle_leaves_the_exact_weights():
    params, optimizer = make(sign(copies=2))
    before = [p.detach().clone() for p in params]

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert_equal(params, before)
    with pytest.raises(KeyboardInterrupt), optimizer.displaced():
        fails()
    assert_equal(params, before)
    optimizer.displace()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert_equal(params, before)


def test_without_a_displacement_there_is_no_block():
    _, optimizer = make(None)
    with pytest.raises(RuntimeError, match="has no displacement"), optimizer.displaced():
        pass


def test_micro_batches_have_draws_of_their_own():
    params, optimizer = make(sign())
    points = []
    for draw in range(3):
        with optimizer.displaced(draw):
            points.append(torch.cat([p.detach().flatten() for p in params]))
            loss_of(params).backward()
    optimizer.step()
    assert len({tuple(point.tolist()) for point in points}) == 3


def test_a_grad_scaler_steps_with_displaced_gradients():
    params, optimizer = make(sign())
    others, other = make(sign())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        optimizer.zero_grad()
        with optimizer.displaced():
            scaler.scale(loss_of(params)).backward()
        scaler.step(optimizer)
        scaler.update()
        other.step(closure_of(others, other))
    assert_equal(params, others)


def test_prepare_fits_the_displacements_circuit_too():
    _, optimizer = make(MeasuredDisplacement(0.1), quantum_weight=0.5, perturbation=CircuitPerturbation(num_qubits=2))
    line = optimizer.prepare()
    assert "25 circuits" in line
    assert "3 circuits" in line
    assert optimizer.prepare() is None


# ---- state


def loaded(optimizer, params):
    state = through_a_file({"optimizer": optimizer.state_dict(), "params": params})
    fresh, resumed = make(MeasuredDisplacement(0.2, circuit=CircuitPerturbation(num_qubits=3)), quantum_weight=0.5)
    resumed.load_state_dict(state["optimizer"])
    with torch.no_grad():
        for p, value in zip(fresh, state["params"]):
            p.copy_(value)
    return resumed


@pytest.mark.parametrize(
    "transfer",
    [loaded, lambda o, _: copy.deepcopy(o), lambda o, _: pickle.loads(pickle.dumps(o))],
    ids=["weights_only file", "deepcopy", "pickle"],
)
def test_a_resumed_run_continues_with_the_same_draws(transfer):
    params, optimizer = make(MeasuredDisplacement(0.2, circuit=CircuitPerturbation(num_qubits=3)), quantum_weight=0.5)
    for _ in range(2):
        optimizer.step(closure_of(params, optimizer))
    resumed = transfer(optimizer, params)
    others = resumed.param_groups[0]["params"]
    for _ in range(3):
        optimizer.step(closure_of(params, optimizer))
        resumed.step(closure_of(others, resumed))
    assert_equal(params, others)
    assert resumed.displacement.circuit.circuits == 125


@pytest.mark.parametrize(
    ("saved", "configured"),
    [(sign(), None), (None, sign()), (sign(seed=1), sign()), (sign(), MeasuredDisplacement(0.1))],
)
def test_a_state_of_another_displacement_is_refused(saved, configured):
    state = make(saved)[1].state_dict()
    with pytest.raises(ValueError, match=r"The state belongs to .*isplacement.*, this optimizer has .*isplacement"):
        make(configured)[1].load_state_dict(state)


def test_radius_and_copies_may_change():
    make(sign(0.3, copies=4))[1].load_state_dict(make(sign())[1].state_dict())


def test_a_plain_adamw_state_loads():
    params = make_params(shapes=SHAPES)
    adamw = torch.optim.AdamW(params, lr=0.01)
    loss_of(params).backward()
    adamw.step()
    make(sign())[1].load_state_dict(adamw.state_dict())


def test_state_survives_distributed_checkpoint_state_dicts():
    model = torch.nn.Linear(3, 2)

    def optimizer():
        return SuperpositionalGradientDescent(
            model.parameters(), quantum_weight=0.0, displacement=MeasuredDisplacement(0.1)
        )

    first, second = optimizer(), optimizer()
    with first.displaced():
        model(torch.ones(1, 3)).sum().backward()
    first.step()
    with second.displaced():
        pass
    set_optimizer_state_dict(model, second, get_optimizer_state_dict(model, first))
    assert second.displacement.circuit.circuits == 3
    assert own_state(second.state_dict())["step"] == 1


@pytest.mark.parametrize("options", [{"copies": 4}, {"copies": 2, "bias": "antithetic"}])
def test_displacements_that_do_not_fit_the_settings_warn(options):
    params, optimizer = make(sign(**options))
    with optimizer.displaced():
        loss_of(params).backward()
    with pytest.warns(UserWarning, match=r"gradients of 1 displacement\(s\), which copies=\d.* does not fit"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in range(optimizer.displacement.copies):
            with optimizer.displaced(draw):
                loss_of(params).backward()
        optimizer.step()
