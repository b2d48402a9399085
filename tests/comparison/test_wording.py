"""What a report says follows from its numbers; whole pages are in tests/report/golden."""

import pytest

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.wording import explanations, learning_rate_factor, unequal_tuning
from tests.comparison.common import fake_results


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"norm_ratio": 0.0004}, "0.04 % of Adam's step"),
        ({"norm_ratio": 0.0}, "never moved a weight"),
        (
            {"offset": -0.98, "spread": 0.02, "learning_rate_factor": 0.51},
            "mostly constant (offset \u22120.98, spread 0.02)",
        ),
        ({"touched": 64.0, "effective": 0.0}, "moved none of the coordinates"),
        ({"unmoved": ["w[0]"]}, "quantum parameters unmoved: w[0]"),
        ({"norm_ratio": 0.3, "offset": 0.1, "spread": 0.3, "touched": 5.0, "effective": 5.0, "unmoved": []}, None),
    ],
)
def test_a_null_effect_is_explained_from_live_numbers(live, expected):
    analysis = analyse(fake_results({"a": 0.0, "b": 0.0}, seeds=2, live={"b": live}))
    found = explanations(analysis, analysis.arms["b"])
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
    assert explanations(analysis, analysis.arms["a"]) == []


def test_borrowed_settings_are_unequal_only_above_one_percent():
    arms, tuned_as = {"a": 0.0, "weak": 0.0, "strong": 0.0}, {"weak": "a", "strong": "a"}
    live = {"weak": {"norm_ratio": 0.009}, "strong": {"norm_ratio": 0.2}}
    (warning,) = unequal_tuning(analyse(fake_results(arms, tuned_as=tuned_as, live=live, trials=3)))
    assert warning.startswith("Unequal tuning: strong uses settings that were tuned for a, although its perturbation")
    assert warning.endswith("is 20 % of Adam's step.")
    assert unequal_tuning(analyse(fake_results(arms, tuned_as=tuned_as, live=live))) == []


def test_a_constant_s_does_not_contradict_the_scalar_twin():
    live = {"b": {"offset": -0.9, "spread": 0.1}}
    effects = {"a": 0.0, "b": 0.0, "b/scalar": -0.03}
    judged = analyse(fake_results(effects, ["b - b/scalar"], twins={"b": ["scalar"]}, live=live))
    assert explanations(judged, judged.arms["b"])[0].endswith("but see b - b/scalar: better")
    shown = analyse(fake_results(effects, twins={"b": ["scalar"]}, live=live))
    assert explanations(shown, shown.arms["b"])[0].endswith("differs from its scalar twin by +3.00 points")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0.55),
        ({"touched": 9.0}, None),
        ({"norm_ratio_touched": 12.0}, None),
        ({"norm_ratio": 3.0, "norm_ratio_touched": 3.0}, None),
    ],
)
def test_a_learning_rate_factor_needs_adams_whole_step(changed, expected):
    whole = {"norm_ratio": 0.46, "norm_ratio_touched": 0.46, "quantum_weight": 0.5, "offset": -0.9, "spread": 0.25}
    live = {"b": whole | {"learning_rate_factor": 0.55, "touched": 90.0} | changed, "c": {"touched": 90.0}}
    analysis = analyse(fake_results({"a": 0.0, "b": 0.0, "c": 0.0}, seeds=1, live=live))
    assert learning_rate_factor(analysis, analysis.arms["b"]) == expected


def test_strong_twins_of_tuned_arms_are_named():
    options = {"twins": {"b": ["frozen"]}, "live": {"b/frozen": {"norm_ratio": 0.2}}, "trials": 3}
    (line,) = unequal_tuning(analyse(fake_results({"a": 0.0, "b": 0.0, "b/frozen": 0.0}, **options)))
    assert line == "Twins use the settings that were tuned for their arm, which favours the arm: b/frozen."
