import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
    WarmupSchedule,
)
from tests.optim.common import make_params, set_gradients

RAMPS = [LinearSchedule, CosineSchedule, ExponentialSchedule]
positive = st.floats(1e-3, 1e3)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (ConstantSchedule(0.3), [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
        (LinearSchedule(1, 0, 4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (CosineSchedule(1, 0, 4), [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0, 0]),
        (ExponentialSchedule(1, 0.0625, 4), [1, 0.5, 0.25, 0.125, 0.0625, 0.0625]),
        (WarmupSchedule(2, 0.4), [0, 0.2, 0.4, 0.4, 0.4, 0.4]),
        (WarmupSchedule(2, LinearSchedule(1, 0, 2)), [0, 0.5, 1, 0.5, 0, 0]),
        (WarmupSchedule(1, WarmupSchedule(2, 1.0)), [0, 0, 0.5, 1, 1, 1]),
    ],
)
def test_values(schedule, values):
    assert [schedule(step) for step in range(6)] == pytest.approx(values)


@pytest.mark.parametrize("kind", RAMPS)
@given(start=positive, end=positive, steps=st.integers(1, 50))
def test_ramps_are_monotonic_between_their_ends_and_stay(kind, start, end, steps):
    values = [kind(start, end, steps)(step) for step in range(steps + 3)]
    assert values[0] == pytest.approx(start)
    assert values[steps:] == [end, end, end]
    slack = 1e-9 * max(start, end)
    ordered = values if start <= end else values[::-1]
    assert all(a <= b + slack for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize("schedule", [LinearSchedule(1, 0, 9), WarmupSchedule(3, CosineSchedule(1, 0, 9))])
def test_copies_give_the_same(schedule):
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert [other(step) for step in range(15)] == [schedule(step) for step in range(15)]


def test_as_quantum_weight_radius_and_learning_rate():
    params = make_params()
    optimizer = SuperpositionalGradientDescent(
        params,
        quantum_weight=WarmupSchedule(2, LinearSchedule(0.5, 0.1, 2)),
        displacement=MeasuredDisplacement(ExponentialSchedule(0.1, 0.01, 3)),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupSchedule(2, CosineSchedule(1, 0.5, 2)))
    weights, rates = [], []
    for step in range(5):
        with optimizer.displaced():
            set_gradients(params, step)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        weights.append(optimizer.param_groups[0]["quantum_weight"])
        scheduler.step()
    assert rates == pytest.approx([0, 0.5e-3, 1e-3, 0.75e-3, 0.5e-3])
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 0.3])  # a step with lr = 0 is not counted


@pytest.mark.parametrize("schedule", [LinearSchedule(1, 0, 9), WarmupSchedule(3, CosineSchedule(1, 0, 9))])
def test_lambda_lr_keeps_its_checkpoints_plain(schedule, tmp_path):
    def scheduler():
        return torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD(make_params(), lr=1.0), schedule)

    first, second = scheduler(), scheduler()
    for _ in range(4):
        first.optimizer.step()
        first.step()
    torch.save(first.state_dict(), tmp_path / "scheduler.pt")
    second.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))
    first.step()
    second.step()
    assert first.get_last_lr() == second.get_last_lr()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSchedule(math.inf), "Invalid value: inf"),
        (lambda: LinearSchedule(math.nan, 0, 3), "Invalid start: nan"),
        (lambda: LinearSchedule(0, math.inf, 3), "Invalid end: inf"),
        (lambda: CosineSchedule(1, 0, 0), "Invalid steps: 0"),
        (lambda: ExponentialSchedule(0, 1, 3), "Invalid start: 0"),
        (lambda: ExponentialSchedule(1, -1, 3), "Invalid end: -1"),
        (lambda: WarmupSchedule(0, 1.0), "Invalid steps: 0"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
