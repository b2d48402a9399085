"""scripts/landscapes.py on settings of seconds."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from functools import partial

import descents
import landscapes
import landscapes_report
import numpy as np
import pytest
import torch
from descents import METHODS, Setting, circuit
from grid_search import Axis, tune

from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import ShotSampler

TINY = landscapes.Size(
    starts=3, tuning_starts=2, gradients=6, tuning_seeds=1, evaluation_seeds=2, count=3, reach=1, records=3
)


@pytest.fixture(autouse=True, scope="module")
def few_shots():
    """15,625 circuits of five qubits would run on Aer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descents, "CircuitPerturbation", partial(CircuitPerturbation, sampler=ShotSampler(64)))
        yield


@pytest.fixture(params=landscapes.LANDSCAPES, ids=lambda landscape: landscape.name)
def landscape(request):
    return request.param


@pytest.fixture
def problem(landscape):
    return landscapes.Problem(landscape, range(2), num_starts=5)


def test_the_minimum_is_zero_at_zero(landscape):
    zero = torch.zeros(10, dtype=torch.float64)
    assert landscape.value(zero).item() == pytest.approx(0, abs=1e-12)
    assert landscape.gradient(zero).abs().max() == 0
    near = 1e-3 * torch.randn(100, 10, dtype=torch.float64)
    far = landscape.bound * (2 * torch.rand(100, 10, dtype=torch.float64) - 1)
    assert landscape.value(near).min() > 0
    assert landscape.value(far).min() > landscapes.TOLERANCE


def test_gradients_are_those_of_autograd(problem):
    x = problem.starts.double().requires_grad_()
    (expected,) = torch.autograd.grad(problem.value(x).sum(), x)
    torch.testing.assert_close(problem.gradient(x.detach()), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(problem.gradient(problem.starts), expected.float(), rtol=1e-3, atol=1e-3)


def test_what_is_not_the_global_basin_is_not_solved(landscape):
    """The local minima next to the global one lie above the tolerance."""
    y = torch.zeros(10, dtype=torch.float64)
    y[0] = 1.0
    for _ in range(2000):
        y = y - 1e-3 * landscape.gradient(y)
    assert y[0] > 0.5
    assert landscape.value(y) > 5 * landscapes.TOLERANCE


def test_rotations_and_starts(problem, landscape):
    rotations = problem.rotations
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(10, dtype=torch.float64).expand_as(rotations))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(2, dtype=torch.float64))
    assert (rotations[0] - rotations[1]).abs().max() > 0.1
    assert 0.8 * landscape.bound < problem.starts.abs().max() <= landscape.bound


def test_a_seed_has_the_same_problem_in_any_company(landscape):
    alone = landscapes.Problem(landscape, range(1, 2), num_starts=5)
    together = landscapes.Problem(landscape, range(3), num_starts=5)
    assert torch.equal(alone.rotations[0], together.rotations[1])
    assert torch.equal(alone.starts[0], together.starts[1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_take_the_gradients_that_they_may_and_repeat(method, problem):
    taken = 0

    def counted(x):
        nonlocal taken
        taken += 1
        return landscapes.Problem.gradient(problem, x)

    problem.gradient = counted
    setting = Setting(0.05, "cosine", method.own.middle)
    size = landscapes.Size(gradients=10)
    (values,) = landscapes.descend(problem, method, setting, size)
    assert taken == 10
    assert values.shape == (2, 5)
    assert torch.equal(landscapes.descend(problem, method, setting, size)[0], values)


@pytest.mark.parametrize("name", ["Langevin", "SAM", "SAM, annealed", "Gaussian", "sign", "circuit"])
def test_without_its_own_setting_each_method_is_adam(name, problem):
    methods = {method.name: method for method in METHODS}
    setting = Setting(0.05, "constant", 1e-13)
    steps = 15

    def run(method, setting):
        return landscapes.descend(
            problem, method, setting, landscapes.Size(gradients=steps * method.gradients_per_step)
        )[0]

    adam = run(methods["Adam"], replace(setting, own=0.1))
    torch.testing.assert_close(run(methods[name], setting), adam, rtol=1e-5, atol=0)


def test_the_circuit_never_measures_two_rows_together():
    x = torch.zeros(2, 3, 10, dtype=torch.float64, requires_grad=True)
    measured = circuit(1, "none")
    assert x.shape[-1] % measured.num_qubits == 0


def test_values_that_are_not_finite_are_large(problem):
    method = METHODS[0]
    problem.starts[0, 0] = float("nan")
    (values,) = landscapes.descend(problem, method, Setting(0.1, "constant", 0.1), landscapes.Size(gradients=2))
    assert values[0, 0] == landscapes.DIVERGED
    assert (values.flatten()[1:] < 1000).all()


@pytest.mark.parametrize("best", [1e-3, 0.4, 30.0])
def test_a_grid_grows_until_its_best_is_inside(best):
    tried = []

    def evaluate(values, choice):
        tried.append((values, choice))
        return (-abs(np.log(values[0] / best)) - 0.1 * abs(np.log(values[1])), float(choice == "b"))

    found = tune(evaluate, [Axis("x", 0.1, reach=6), Axis("y", 1.0, count=3)], ["a", "b"])
    assert abs(np.log(found.values[0] / best)) <= np.log(3) / 4  # after half-steps
    assert (found.values[1], found.choice, found.edges) == (1.0, "b", ())
    assert len(tried) == len(set(tried)) == len(found.trials)
    assert found.score == max(found.trials.values())
    first = [values[0] for values, _ in found.trials]
    assert min(first) < found.values[0] < max(first)


@pytest.mark.parametrize(("axis", "largest"), [(Axis("x", 1.0, reach=3), 27.0), (Axis("x", 1 / 9, limit=1.0), 1.0)])
def test_a_grid_that_may_not_grow_says_so(axis, largest):
    found = tune(lambda values, _: (values[0],), [axis], [None])
    assert found.values == pytest.approx((largest,))
    assert found.edges == ("x",)


def test_a_fixed_axis_stays():
    found = tune(lambda values, _: values, [Axis("x", 0.3, count=1)], [None])
    assert (found.values, found.edges, len(found.trials)) == ((0.3,), (), 1)


def test_ties_go_to_what_was_tried_first():
    assert tune(lambda values, choice: (0.0,), [Axis("x", 1.0, reach=2)], ["a", "b"]).choice == "a"


def test_scores_put_the_primary_metric_first():
    values = torch.tensor([[0.01, 5.0, 7.0]], dtype=torch.float64)
    solved, median = landscapes.score(values, "solved"), landscapes.score(values, "median")
    assert solved == pytest.approx((1 / 3, -5.0))
    assert median == pytest.approx((-5.0, 1 / 3))


def test_paired_interval():
    mean, low, high = landscapes_report.paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))  # t(0.975, 2)
    assert landscapes_report.paired([1.0, 2.0], [0.0, 1.0]) == (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a quick run, and what it printed."""
    folder = tmp_path_factory.mktemp("quick") / "out"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(landscapes, "QUICK", TINY)
        landscapes.main(["--quick", "--seeds", "2", "--output", str(folder)])
    return folder, said.getvalue()


def test_a_quick_run_end_to_end(quick):
    folder, said = quick
    record = json.loads((folder / "landscapes.json").read_text())
    table = (folder / "landscapes.md").read_text()
    assert table in said
    assert len(record["results"]) == len(landscapes.LANDSCAPES) * len(METHODS)
    assert not set(record["evaluation_seeds"]) & set(record["tuning_seeds"])
    for result in record["results"]:
        assert f"| {result['method']} |" in table
        assert len(result["median"]) == len(result["solved"]) == 2
        assert np.array(result["curve_quartiles"]).shape == (3, 3)
        assert result["trials"] >= (6 if result["method"] == "Adam, beta1 0.9" else 18)
    assert (folder / "landscapes.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in folder.iterdir()} == {f"landscapes.{s}" for s in ("json", "md", "png")}


def test_a_stopped_run_goes_on(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(landscapes, "QUICK", TINY)
    arguments = ["--quick", "--seeds", "2", "--output", str(tmp_path)]
    shutil.copytree(quick[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "landscapes.json"
    whole = json.loads(path.read_text())
    assert whole["results"].pop(3)["method"] == "SAM"
    path.write_text(json.dumps(whole))
    table = (tmp_path / "landscapes.md").read_text()
    landscapes.main(arguments)
    assert capsys.readouterr().out.count(" trials in ") == 1
    assert (tmp_path / "landscapes.md").read_text() == table
    with pytest.raises(SystemExit):
        landscapes.main([*arguments, "--seeds", "3"])
    assert "is of a run of another size; name another folder or remove it" in capsys.readouterr().err


def test_impossible_seeds_are_refused(capsys):
    with pytest.raises(SystemExit):
        landscapes.main(["--seeds", "1"])
    assert "Invalid --seeds: 1; it must be 2 to 1000" in capsys.readouterr().err
