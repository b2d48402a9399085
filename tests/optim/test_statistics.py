import math
from pathlib import Path

import pytest
import torch

from lightning_qsgd.optim import CircuitPerturbation, SinePerturbation, SuperpositionalGradientDescent
from lightning_qsgd.optim.statistics import STATISTICS

PAGE = Path(__file__).parents[2] / "docs" / "tensorboard.md"


def recorded(steps=3, perturbation=None, **options):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((3, 4), (2,))]
    optimizer = SuperpositionalGradientDescent(params, perturbation=perturbation, **options)
    for step in range(steps):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        optimizer.record_statistics = step == steps - 1
        optimizer.step()
    return optimizer, before, params


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": "adam"},
        {"coupling": "decoupled"},
        {"scope": "all", "maximize": True},
        {"bias_correction": False, "scale": "adam", "amsgrad": True},
    ],
)
def test_equal_to_the_step_itself(options):
    """The weights of two runs, with and without the last perturbation, give the same numbers."""
    options = {"lr": 0.01, "quantum_weight": 0.4} | options
    optimizer, before, params = recorded(**options)
    statistics = optimizer.statistics
    maximize = -1 if options.get("maximize") else 1
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, params)])
    theta = torch.cat([b.flatten() for b in before])
    gradient = torch.cat([p.grad.flatten() for p in params]) * maximize
    mask = torch.zeros(14, dtype=torch.bool)
    mask[:4] = mask[12:] = True
    if options.get("scope") == "all":
        mask[:] = True
    s = torch.where(mask, torch.sin(math.pi * theta), 0.0)
    if options.get("scale") == "adam":
        direct = moved / (1 + 0.4 * s)
        q = s * direct / 0.01
    else:
        q = s * gradient
        rate = 1.0 if options.get("coupling") == "decoupled" else 0.01
        direct = moved - rate * 0.4 * q
    perturbation = moved - direct
    values = {name: value.item() for name, value in statistics.items() if name != "s"}
    assert values["norm_ratio"] == pytest.approx(float(perturbation.norm() / direct.norm()), rel=1e-9)
    assert values["norm_ratio_touched"] == pytest.approx(float(perturbation.norm() / direct[mask].norm()), rel=1e-9)
    assert values["cosine"] == pytest.approx(float(q @ gradient / (q.norm() * gradient[mask].norm())), rel=1e-9)
    assert values["offset"] == pytest.approx(float(s[mask].mean()), rel=1e-5)
    assert values["spread"] == pytest.approx(float(s[mask].std(correction=0)), rel=1e-5)
    assert values["learning_rate_factor"] == pytest.approx(1 + 0.4 * values["offset"])
    assert values["touched"] == mask.sum()
    assert values["effective"] == (s[mask].abs() > 0.01).sum()
    torch.testing.assert_close(statistics["s"], s[mask].float())


def test_the_page_defines_each_statistic():
    table = PAGE.read_text().split("| scalar | definition |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| `quantum/{one.name}` | {one.meaning} |" for one in STATISTICS]
    assert set(recorded()[0].statistics) == {one.name for one in STATISTICS} | {"s"}


def test_in_the_gradient_the_ratio_is_to_the_gradient():
    optimizer, before, params = recorded(target="gradient", quantum_weight=1.0)
    theta = torch.cat([b.flatten()[:4] for b in before])
    gradient = torch.cat([p.grad.flatten()[:4] for p in params])
    expected = (torch.sin(math.pi * theta) * gradient).norm() / gradient.norm()
    assert optimizer.statistics["norm_ratio"].item() == pytest.approx(float(expected))


def test_recording_changes_nothing_and_nothing_is_recorded_unasked():
    first, _, watched = recorded(perturbation=CircuitPerturbation())
    assert first.statistics is not None
    second = SuperpositionalGradientDescent([torch.ones(4, requires_grad=True)], perturbation=SinePerturbation())
    second.param_groups[0]["params"][0].grad = torch.ones(4)
    second.step()
    assert second.statistics is None
    unwatched = recorded(perturbation=CircuitPerturbation())[2]
    assert all(torch.equal(a, b) for a, b in zip(watched, unwatched))
