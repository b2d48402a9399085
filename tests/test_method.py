"""The statements of docs/method.md, and its numbers and pictures."""

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.optim import CircuitPerturbation, SinePerturbation, SuperpositionalGradientDescent
from tests.optim.common import ask, make_params, random_angles, set_gradients

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "method.md").read_text()
EXACT = {"atol": 1e-10, "rtol": 0}  # SamplerQNN's exact probabilities are good to 1e-12, a series of 625 to less
ALIGNED, LITERAL = CircuitPerturbation(), CircuitPerturbation(rotations="zero")  # shared: circuits run at first use


@pytest.fixture
def norm_ratios(monkeypatch):
    monkeypatch.syspath_prepend(DOCS.parent / "scripts")
    return importlib.import_module("norm_ratios")


@pytest.fixture
def plot_method(norm_ratios):
    return importlib.import_module("plot_method")


# ---- closed forms; those of depth 1 and of one qubit are in tests/optim/test_perturbation.py


@pytest.mark.parametrize("num_qubits", [1, 2, 4])
@pytest.mark.parametrize("rotations", ["zero", "random"])
def test_depth_2_with_the_chain_decoded_has_a_closed_form(num_qubits, rotations):
    angles = random_angles(300, num_qubits)
    options = {"num_qubits": num_qubits, "rotations": rotations, "rotation_seed": 5}
    perturbation = CircuitPerturbation(**options, decode_chain=True)
    theta1, theta2, phi = torch.from_numpy(perturbation.weights).view(3, num_qubits)
    alpha, beta = angles + theta1, angles + theta2
    z, x = -alpha.sin(), alpha.cos() * phi.cos()
    neighbour = torch.cat([x[:, 1:], torch.ones_like(x[:, :1])], -1)  # the last qubit has none
    expected = beta.sin() * z.cumprod(-1) - beta.cos() * x * neighbour
    torch.testing.assert_close(ask(perturbation, angles), expected, **EXACT)


def test_depth_2_without_the_chain_for_any_rotations():
    angles = random_angles(300)
    perturbation = CircuitPerturbation(entanglement="none", rotations="random")
    theta1, theta2, phi = torch.from_numpy(perturbation.weights).view(3, 4)
    alpha, beta = angles + theta1, angles + theta2
    expected = -beta.sin() * alpha.sin() - beta.cos() * alpha.cos() * phi.cos()
    torch.testing.assert_close(ask(perturbation, angles), expected, **EXACT)


def test_aligned_rotations_of_4_qubits_are_half_sines_times_what_the_chain_adds():
    angles = random_angles(300)
    (sin, cos), half = (f.unbind(-1) for f in (angles.sin(), angles.cos())), (2 * angles).sin().unbind(-1)
    factors = [
        torch.ones_like(sin[0]),
        cos[2] + sin[0],
        cos[3] + sin[0] * cos[1],
        1 - sin[0] * cos[1] * sin[2],
    ]
    expected = torch.stack([h / 2 * factor for h, factor in zip(half, factors)], -1)
    torch.testing.assert_close(ask(ALIGNED, angles), expected, **EXACT)


def test_zero_rotations_at_depth_2_first_qubit_answers_its_neighbours_weight():
    angles = random_angles(300)
    a, b = angles[:, 0], angles[:, 1]
    s = ask(LITERAL, angles)
    torch.testing.assert_close(s[:, 0], -1 + 2 * a.cos() ** 2 * (b / 2).sin() ** 2, **EXACT)


def test_zero_rotations_at_depth_2_to_second_order():
    angles = 1e-4 * random_angles(300)
    square = angles**2
    two, three = square[:, 1] + square[:, 2], square[:, 1:].sum(-1)
    expected = torch.stack([square[:, 1], two, three, three], -1) / 2 - 1
    torch.testing.assert_close(ask(LITERAL, angles), expected, atol=2e-10, rtol=0)


def test_zero_rotations_at_normal_weights_have_the_means_of_the_second_order():
    angles = 0.05 * math.pi * random_angles(20_000)
    s = ask(LITERAL, angles)
    means = -1 + torch.tensor([1, 2, 3, 3]) * (0.05 * math.pi) ** 2 / 2
    torch.testing.assert_close(s.mean(0), means.double(), atol=2e-3, rtol=0)
    assert np.allclose(s.std(0), [0.017, 0.025, 0.031, 0.031], atol=2e-3)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.05, 0.987, 0.9996), (0.2, 0.74, 0.90), (1.0, 0.0, 0.0)])
def test_aligned_rotations_follow_the_sine_at_small_weights_only(spread, low, high):
    angles = spread * math.pi * random_angles(20_000)
    s = ask(ALIGNED, angles)
    correlations = [np.corrcoef(s[:, k], angles[:, k].sin())[0, 1] for k in range(4)]
    assert [min(correlations), max(correlations)] == pytest.approx([low, high], abs=0.015)


@given(st.floats(-7, 7))
def test_h_ry_h_turns_backwards(a):
    h = np.array([[1, 1], [1, -1]]) / math.sqrt(2)

    def ry(angle):
        return np.array([[math.cos(angle / 2), -math.sin(angle / 2)], [math.sin(angle / 2), math.cos(angle / 2)]])

    np.testing.assert_allclose(h @ ry(a) @ h, ry(-a), atol=1e-12)


# ---- the learning rate


def steps(make_optimizer, params, count=3):
    optimizer = make_optimizer(params)
    for step in range(count):
        set_gradients(params, step)
        optimizer.step()
    return params


@pytest.mark.filterwarnings("ignore:The perturbation is nearly constant")
def test_zero_rotations_at_zero_weights_are_adamw_at_half_the_rate():
    def zeros():
        return [p.detach().mul(0).requires_grad_() for p in make_params()]

    def literal(params):
        return SuperpositionalGradientDescent(params, scope="all", scale="adam", perturbation=LITERAL)

    ours = steps(literal, zeros(), 1)
    for p, q in zip(ours, steps(lambda params: torch.optim.AdamW(params, lr=5e-4, weight_decay=0.0), zeros(), 1)):
        torch.testing.assert_close(p, q, **EXACT)


def test_adam_is_nearly_invariant_to_gradients_scaled_by_a_constant():
    """target="gradient" with an s that does not move: the same factor in m and in sqrt(v)."""

    class Constant(SinePerturbation):
        def forward(self, angles, *, step):
            return torch.full_like(angles, -0.9)

    def gradient_arm(params):
        return SuperpositionalGradientDescent(params, target="gradient", scope="all", perturbation=Constant())

    ours = steps(gradient_arm, make_params())
    for p, q in zip(ours, steps(lambda params: torch.optim.AdamW(params, weight_decay=0.0), make_params())):
        torch.testing.assert_close(p, q, atol=1e-9, rtol=0)  # 0 but for eps, against steps of 1e-3


def test_without_bias_correction_steps_are_up_to_6_and_a_half_times_as_long():
    t = np.arange(1, 5000)
    factors = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
    assert [round(float(factors[i - 1]), 2) for i in (1, 12, 100, 1000)] == [3.16, 6.57, 3.24, 1.26]
    assert factors.argmax() + 1 == 12
    params, plain = make_params(), make_params()
    steps(lambda p: SuperpositionalGradientDescent(p, quantum_weight=0.0, bias_correction=False), params, 1)
    steps(lambda p: torch.optim.AdamW(p, weight_decay=0.0), plain, 1)
    moved, expected = (
        (q - p.detach()).abs().max().item() for p, q in zip((params[0], plain[0]), make_params()[:1] * 2)
    )
    assert moved / expected == pytest.approx(factors[0], rel=1e-4)


# ---- the page's numbers and pictures


def test_the_pages_tables_are_those_of_the_measured_numbers(norm_ratios):
    combinations, kinds = norm_ratios.read(DOCS / "results" / "norm_ratios.json")
    assert norm_ratios.table_of_combinations(combinations) in PAGE
    assert norm_ratios.table_of_kinds(kinds) in PAGE
    assert len(combinations) == 15


def test_every_test_that_the_page_names_exists():
    sources = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) >= 20
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_every_picture_is_small_and_described():
    for path in (DOCS / "images").glob("method_*.png"):
        assert path.stat().st_size <= 150_000
        start = PAGE.index(f"](images/{path.name})")
        assert len(PAGE[PAGE.rindex("![", 0, start) : start]) > 80


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_ratios_are_measured_in_the_main_job(norm_ratios, target):
    setting = {"target": target, "scale": "gradient", "coupling": "lr", "scope": "first_of_tensor"}
    names = ["norm_ratio", "norm_ratio_touched"]
    small = ["--data.train_size=96"]
    row = norm_ratios.measure(setting, SinePerturbation, names, [1, 2], 1, small)
    assert row == norm_ratios.measure(setting, SinePerturbation, names, [1, 2], 1, small)
    assert len(set(row.statistics["norm_ratio"])) == 2
    whole, touched = (np.array(row.statistics[name]) for name in names)
    assert (whole > 0).all()
    assert (whole < touched).all()
    assert (touched < 0.1).all()


def test_the_chart_of_ratios_is_drawn_from_the_numbers(plot_method, norm_ratios, tmp_path):
    combinations, _ = norm_ratios.read(DOCS / "results" / "norm_ratios.json")
    plot_method.save(plot_method.draw_ratios(combinations), tmp_path / "ratios.png")
    assert 1000 < (tmp_path / "ratios.png").stat().st_size <= 150_000


@pytest.mark.slow
def test_all_pictures_are_drawn(plot_method, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "norm_ratios.json").write_text((DOCS / "results" / "norm_ratios.json").read_text())
    plot_method.main([f"--output={tmp_path}", "--draw-only", "--train-epochs=1"])
    drawn = {path.name for path in (tmp_path / "images").iterdir()}
    assert drawn == {path.name for path in (DOCS / "images").glob("method_*.png")}
