"""What a report says follows from its numbers."""

from dataclasses import replace

import pytest

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.wording import explanations, methods, unequal_tuning, verdict
from tests.comparison.common import fake_results


def said(*args, **options):
    return " ".join(verdict(analyse(fake_results(*args, **options))))


def test_the_verdict_names_gatekeeper_claims_and_runs():
    text = said(
        {"a": 0.0, "b": 0.03, "b/frozen": 0.03},
        ["b - a", "b - b/frozen"],
        twins={"b": ["frozen"]},
        gatekeeper="b - a",
        claims={"b": ["a", "b/frozen"]},
        diverged=[("a", 1)],
        trials=3,
    )
    assert "The gatekeeper contrast, b - a: " in text
    assert "b: not clearly better than" in text
    assert "29 of 30 evaluation runs finished, 1 diverged" in text
    assert "so far" not in text


def test_the_other_contrasts_are_counted_and_differences_named():
    text = said({"a": 0.0, "b": 0.03, "c": 0.0}, ["b - a", "c - a"])
    assert "Of the declared 2 contrasts, judged together: " in text
    assert "1 better (b - a)" in text
    assert "1 equivalent" in text


def test_what_is_exploratory_says_why():
    assert "It is exploratory: 4 pairs where 6 are needed" in said({"a": 0.0, "b": 0.0}, ["b - a"], seeds=4)


def test_results_that_are_not_complete():
    assert "results so far: 20 of 20" in said({"a": 0.0, "b": 0.0}, ["b - a"], complete=False)
    results = fake_results({"a": 0.0, "b": 0.0}, ["b - a"])
    assert verdict(analyse(replace(results, runs=[]))) == [
        "Nothing has finished yet: none of the 20 evaluation runs is there."
    ]
    assert "nothing is judged" in said({"a": 0.0, "b": 0.0})


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"norm_ratio": 0.0004}, "0.04 % of Adam's step"),
        ({"norm_ratio": 0.0}, "never moved a weight"),
        ({"offset": -0.98, "spread": 0.02, "learning_rate_factor": 0.51}, "a learning-rate factor of 0.51"),
        ({"touched": 64.0, "effective": 0.0}, "no touched coordinate"),
        ({"unmoved": ["w[0]"]}, "quantum parameters unmoved: w[0]"),
        ({"norm_ratio": 0.3, "offset": 0.1, "spread": 0.3, "touched": 5.0, "effective": 5.0, "unmoved": []}, None),
    ],
)
def test_a_null_effect_is_explained_from_live_numbers(live, expected):
    analysis = analyse(fake_results({"a": 0.0, "b": 0.0}, seeds=2, live={"b": live}))
    found = explanations(analysis.arms["b"])
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
    assert explanations(analysis.arms["a"]) == []


def test_borrowed_settings_are_unequal_only_above_one_percent():
    arms, tuned_as = {"a": 0.0, "weak": 0.0, "strong": 0.0}, {"weak": "a", "strong": "a"}
    live = {"weak": {"norm_ratio": 0.009}, "strong": {"norm_ratio": 0.2}}
    (warning,) = unequal_tuning(analyse(fake_results(arms, tuned_as=tuned_as, live=live, trials=3)))
    assert warning == "Unequal tuning: strong has the settings of a, and its perturbation is 20 % of Adam's step."
    assert unequal_tuning(analyse(fake_results(arms, tuned_as=tuned_as, live=live))) == []


def test_methods_say_what_was_done():
    results = fake_results({"a": 0.0, "b": 0.0, "c": 0.0}, ["b - a", "c - a"], gatekeeper="b - a", trials=3)
    text = methods(analyse(results))
    for part in ("3 arms with 10 evaluation seeds", "differences below 1.00 points", "3 trials on 2 tuning seeds"):
        assert part in text
    assert "gatekeeper contrast was judged first" in text
    assert "No arm was tuned." in methods(analyse(fake_results({"a": 0.0})))
