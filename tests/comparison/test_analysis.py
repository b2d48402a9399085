"""A report's numbers are those that the runs give."""

import math
from dataclasses import replace

import pytest

from lightning_qsgd.comparison.analysis import analyse, time_of
from tests.comparison.common import fake_results


def test_a_planted_effect_is_found_and_judged():
    analysis = analyse(fake_results({"a": 0.0, "b": 0.03}, ["b - a"]))
    (item,) = analysis.contrasts
    assert item.judgement.paired.mean == pytest.approx(0.03, abs=1e-12)
    assert item.judgement.verdict == "better"
    assert (item.level, item.seeds) == ("full", list(range(1, 11)))
    assert analysis.arms["b"].difference.wins == 10
    assert (analysis.expected, analysis.count("finished"), analysis.so_far) == (20, 20, False)


def test_a_minimized_metric_is_judged_the_other_way():
    analysis = analyse(fake_results({"a": 0.0, "b": 0.5}, ["b - a"], mode="min", unit=""))
    assert analysis.contrasts[0].judgement.verdict == "worse"
    assert analysis.contrasts[0].judgement.paired.mean == pytest.approx(-0.5)


def test_diverged_runs_count_and_failed_ones_do_not():
    results = fake_results({"a": 0.0, "b": 0.0}, ["b - a"], diverged=[("b", 2)], failed=[("b", 3)])
    analysis = analyse(results)
    arm = analysis.arms["b"]
    assert arm.counts == {"finished": 8, "diverged": 1, "failed": 1}
    assert (len(arm.values["last"]), len(arm.values["test"])) == (8, 8)
    assert min(arm.values["last"]) > 0.8
    assert arm.diverged == "1 of 10 diverged"
    assert analysis.contrasts[0].seeds == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert arm.hits["0.9"].n == 9
    assert arm.times["0.9"]["epoch"].count(math.inf) >= 1


def test_times_are_of_the_first_evaluation_at_the_target():
    results = fake_results({"a": 0.0}, seeds=1)
    (run, *_) = results.runs
    run.curve = {
        "epoch": [1.0, 2.0, 3.0],
        "step": [5.0, 10.0, 15.0],
        "seconds": [0.5, 1.0, 1.5],
        "val/accuracy": [0.1, None, 0.95],
    }
    assert [time_of(results, run, axis, 0.9) for axis in ("epoch", "step", "seconds")] == [3, 15, 1.5]
    assert time_of(results, run, "epoch", 0.96) == math.inf
    del run.curve["epoch"]
    assert time_of(results, run, "epoch", 0.9) == 3


def test_cost_is_the_median_of_paired_ratios():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=3)
    for run in results.runs:
        run.cost["seconds"] = run.seed * (3.0 if run.arm == "b" else 1.0)
    results.of("b")[3].cost["seconds"] = 100.0
    assert analyse(results).arms["b"].seconds_ratio == 3
    results.of("b")[1].cost["seconds"] = None
    assert analyse(results).arms["b"].seconds_ratio == pytest.approx((3 + 100 / 3) / 2)


def test_live_numbers_are_means_and_findings_are_gathered():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2)
    one, two = results.of("b").values()
    one.live, two.live = {"norm_ratio": 0.1, "unmoved": ["w[1]"]}, {"norm_ratio": 0.3, "unmoved": ["w[0]"]}
    arm = analyse(results).arms["b"]
    assert arm.live == {"norm_ratio": pytest.approx(0.2)}
    assert arm.checks == {"unmoved": ["w[0]", "w[1]"]}


def test_arms_that_are_the_baseline_bit_for_bit():
    results = fake_results({"a": 0.0, "b": 0.0, "c": 0.01}, seeds=2)
    for seed in (1, 2):
        results.of("b")[seed].curve["val/accuracy"] = list(results.of("a")[seed].curve["val/accuracy"])
    assert analyse(results).identical == ["b"]


def test_arms_are_drawn_with_their_twins_and_others_in_groups():
    arms = dict.fromkeys(["a", "b", "b/frozen", "c", "d1", "d2", *(f"e{i}" for i in range(7))], 0.0)
    dose = {"series": ["a", "d1", "d2"]}
    analysis = analyse(fake_results(arms, seeds=1, twins={"b": ["frozen"]}, claims={"b": ["c", "a"]}, dose=dose))
    assert analysis.families() == {"b": ["b/frozen", "c"]}
    groups = analysis.groups()
    assert groups["series"] == ["d1", "d2"]
    assert [len(groups[name]) for name in ("other arms (1 of 2)", "other arms (2 of 2)")] == [4, 4]
    assert sum(map(len, groups.values())) + len(analysis.families()["b"]) == len(arms) - 1  # c twice, no baseline, no b


def test_what_is_missing_makes_no_error():
    results = fake_results({"a": 0.0, "b": 0.0}, ["b - a"], complete=False)
    assert analyse(results).so_far
    nothing = analyse(replace(results, runs=[]))
    assert nothing.contrasts[0].level is None
    assert nothing.arms["a"].hits == {"0.9": None, "tuned baseline": None}
    assert nothing.groups() == {}
