"""Results survive their file, and give each run the value that the specification declares."""

import json
import math

import numpy as np
import pytest

from lightning_qsgd.comparison.results import FILE, Results, Run
from lightning_qsgd.comparison.spec import Arm, Comparison, Metric, Seeds


def results(*runs, name="val/accuracy", last=2):
    metric = Metric(margin=0.01, name=name, last=last)
    seeds = Seeds(evaluation=[1, 2, 3], tuning=[11])
    arms = {"a": Arm(), "b": Arm()}
    comparison = Comparison(name="t", base=["x.yaml"], metric=metric, arms=arms, baseline="a", seeds=seeds)
    return Results(comparison, runs=list(runs))


def run(arm, seed, *values, status="finished"):
    curve = {"val/accuracy": list(values), "val/loss": list(values)}
    return Run(arm, seed, "evaluation", status, curve=curve, averaged={"val/accuracy": 0.95})


def test_the_value_of_a_run():
    one = run("a", 1, 0.5, 0.9, 0.7)
    all_runs = results(one)
    assert all_runs.value(one) == pytest.approx(0.8)
    assert [all_runs.value(one, summary) for summary in ("final", "best", "averaged")] == [0.7, 0.9, 0.95]
    assert results(one, name="val/loss").value(one, "best") == 0.5


def test_a_diverged_run_counts_as_the_worst_value_seen_and_a_failed_one_is_missing():
    runs = [run("a", 1, 0.5, 0.9), run("b", 1, 0.8, None, status="diverged"), run("a", 2, 0.6), run("b", 2, 0.3)]
    runs += [run("a", 3, 0.6), run("b", 3, status="failed")]
    a, b, seeds = results(*runs).pairs("a", "b")
    assert seeds == [1, 2]
    np.testing.assert_allclose(a, [0.7, 0.6])
    np.testing.assert_allclose(b, [0.3, 0.3])
    assert results(*runs).counts("b") == {"finished": 1, "diverged": 1, "failed": 1}
    assert math.isnan(results(*runs).value(runs[-1]))


def test_a_metric_that_is_not_finite_at_the_end_counts_as_diverged():
    broken = run("b", 1, 0.8, 0.9, None)
    assert results(run("a", 1, 0.3), broken).value(broken) == 0.3
    assert results(run("a", 1, 0.3), early := run("b", 1, None, 0.8, 0.9)).value(early) == pytest.approx(0.85)


def test_pairs_of_a_minimized_metric_change_sign():
    a, b, _ = results(run("a", 1, 2.0), run("b", 1, 1.0), name="val/loss").pairs("a", "b")
    assert (a[0], b[0]) == (-2.0, -1.0)


def test_the_file_holds_everything(tmp_path):
    before = results(run("a", 1, 0.5, None), run("b", 1, 0.25))
    before.parameter_sets["1f"] = {"w": "2e"}
    before.save(tmp_path)
    assert Results.load(tmp_path) == before
    assert Results.load(tmp_path / FILE) == before


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning-qsgd compare"):
        Results.load(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="another version"):
        Results.load(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match="does not hold a comparison's results"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("runs/1/seed", "1", r"runs\[1\]\.seed: '1' is not a whole number"),
        ("runs/1/seed", True, r"runs\[1\]\.seed: True is not a whole number"),
        ("runs/0/phase", "test", r"runs\[0\]\.phase: 'test' is none of 'tuning', 'evaluation'"),
        ("runs/0/speed", 1, r"runs\[0\]: unknown: 'speed'"),
        ("runs/0/curve", {"val/accuracy": [0.5, "x"]}, r"runs\[0\]\.curve\['val/accuracy'\]\[1\]: 'x' is not a number"),
        ("comparison/arms/a/overlay", [], r"comparison\.arms\['a'\]: unknown: 'overlay'"),
        ("comparison/metric/margin", None, r"comparison\.metric\.margin: missing|margin: None is not a number"),
        ("comparison/baseline", "c", r"comparison: Invalid baseline: 'c'"),
    ],
)
def test_what_the_file_must_not_hold_is_named_with_its_place(tmp_path, place, value, message):
    results(run("a", 1, 0.5, None), run("b", 1, 0.25)).save(tmp_path)
    whole = inner = json.loads((tmp_path / FILE).read_text())
    *path, last = (int(part) if part.isdigit() else part for part in place.split("/"))
    for part in path:
        inner = inner[part]
    inner[last] = value
    (tmp_path / FILE).write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=rf"results\.json does not hold a comparison's results: {message}"):
        Results.load(tmp_path)
