"""Sentences follow from numbers, by rules."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.audit.conclusions import (
    MAPS,
    attention_conclusion,
    conclude,
    interval,
    judge,
    layer_conclusion,
    loss,
    outcome,
    simplest,
    summary,
)
from lightning_qsgd.audit.findings import Metric, Truncation
from tests.audit.common import fake_findings
from tests.audit.model_findings import attention_findings, layer_findings, replacement

ACCURACY = Metric("val/accuracy", "max", 0.953, 2000)
LOSS = Metric("val/loss", "min", 0.5, 0)


def maps(**values):
    return dict.fromkeys(MAPS, 0.1) | {name.replace("_", " "): value for name, value in values.items()}


def shares(**values):
    return replace(fake_findings().shares, **values)


def found(**values):
    return replace(fake_findings(), norm_ratio=0.3, device_error=None, **values)


def test_the_simplest_map_that_suffices_is_named():
    everything = dict.fromkeys(MAPS, 0.99)
    assert simplest(everything) == "one number"
    assert simplest(everything | {"one number": 0.9}) == "one per qubit"
    assert simplest(maps(frozen_at_step_0=0.96)) == "frozen at step 0"
    assert simplest(maps()) is None
    whole = conclude(found(maps=everything, shares=shares(constant=1.0, multi=0.0)))[0]
    assert whole.endswith("to 99.00 % of its power. Frozen at step 0, its values reproduce 99.00 %.")
    first, *_ = conclude(found(maps=maps(frozen_at_step_0=0.998), shares=shares(constant=1.0, multi=0.0)))
    assert first == "The perturbation is a table of numbers that is frozen at step 0, to 99.80 % of its power."


def test_several_angles_are_named_with_the_series_that_replaces_them():
    series = Truncation(error=0.01, terms=31, candidates=2500, left=0.009, largest=3)
    sentences = conclude(
        found(maps=maps(**{"one-angle series": 0.7}), shares=shares(multi=0.3, single=0.7), truncation=series)
    )
    assert sentences == [
        "No simple classical map is the perturbation: the best, a sum of functions of one weight each, reproduces "
        "70.00 % of its power.",
        "30.00 % of it depends on several weights together.",
        "A classical series of 31 of 2,500 terms gives all of it but 0.90 %.",
    ]
    whole = conclude(found(maps=maps(), shares=shares(multi=0.3), truncation=replace(series, left=0.0)))
    assert whole[-1] == "A classical series of 31 of 2,500 terms gives all of it."
    unreached = replace(series, terms=None)
    assert "series" not in conclude(found(maps=maps(), shares=shares(multi=0.3), truncation=unreached))[-1]


def test_little_of_several_angles_is_said_to_be_little():
    sentences = conclude(found(maps=maps(sine=0.97), shares=shares(multi=0.02)))
    assert sentences[-1] == "2.00 % of it depends on several weights together."
    nothing = conclude(found(maps=maps(sine=1.0), shares=shares(multi=0.0)))
    assert nothing[-1] == "Nothing in it depends on several weights together."
    assert conclude(found(maps=maps(sine=0.97), shares=shares(multi=0.02), few=True))[-1].endswith("a lower bound.")


def test_a_negligible_perturbation_comes_first():
    sentences = conclude(replace(fake_findings(), norm_ratio=0.0003, maps=maps(sine=0.99)))
    assert sentences[0] == "The perturbation is too small to matter: 0.03 % of Adam's step (median over the run)."
    assert "too small" not in conclude(replace(fake_findings(), norm_ratio=None))[0]


def test_a_table_is_not_called_random():
    sentences = conclude(found(shares=shares(rest=0.99), maps=maps(frozen_at_step_0=1.0)))
    assert sentences[0] == "The perturbation is a table of numbers that is frozen at step 0, to 100 % of its power."


def test_noise_and_nothing():
    assert conclude(found(shares=shares(rest=0.8), maps=maps()))[0] == (
        "The perturbation is mostly random: 80.00 % of its power is no function of the weights."
    )
    assert conclude(found(shares=shares(power=0.0)))[0] == "The perturbation is 0: it does nothing."


def test_what_could_not_be_tried_is_said_first():
    unknown = {"truncation": None, "maps": maps(sine=0.99)}
    told = conclude(found(**unknown))[0]
    assert told.startswith("A short classical series was not tried, because the perturbation has no series. The pert")
    assert "s is known from runs of the circuit alone" in conclude(found(**unknown, sampled=True))[0]


@pytest.mark.parametrize(
    "findings",
    [
        fake_findings(),
        fake_findings(intervals={}, coordinates=(8, 8), steps=1, spans=1),
        layer_findings(ACCURACY, [replacement("constant", 0.5, 920, 14)]),
        attention_findings(LOSS, [replacement("no Phi", 0.9), replacement("linear part", 0.953)]),
    ],
)
def test_three_sentences_come_first(findings):
    assert len(summary(findings)) == 3


def changed(lost, gained, name="constant", metric=ACCURACY):
    return replacement(name, metric.value - (lost - gained) / max(metric.examples, 1), lost, gained)


def test_intervals_by_hand():
    """21 lost, 11 gained of 100: with half an example added to each cell, (21.5 - 11.5) / 102."""
    low, high = interval(Metric("a", "max", 0.9, 100), replacement("constant", 0.8, 21, 11))
    error = math.sqrt(33 - 100 / 102) / 102
    assert (low, high) == pytest.approx((10 / 102 - 1.96 * error, 10 / 102 + 1.96 * error))
    assert interval(LOSS, replacement("constant", 0.6)) is None


@pytest.mark.parametrize(
    ("lost", "gained", "examples", "expected"),
    [
        (0, 0, 2000, "enough"),
        (10, 8, 2000, "enough"),
        (0, 0, 100, "unclear"),  # 1.9 points might still be lost
        (300, 20, 2000, "not enough"),
        (40, 35, 500, "unclear"),
        (0, 400, 2000, "enough"),  # better
        (15, 0, 2000, "not enough"),  # surely something, and perhaps more than a point
        (8, 0, 2000, "enough"),  # surely something, but less than a point
    ],
)
def test_judgements(lost, gained, examples, expected):
    metric = Metric("val/accuracy", "max", 0.9, examples)
    assert judge(metric, changed(lost, gained, metric=metric)) == expected


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_loss(lost, gained):
    low, high = interval(ACCURACY, changed(lost, gained))
    assert low <= (lost - gained) / 2002 <= high
    assert loss(ACCURACY, changed(lost, gained)) == pytest.approx((lost - gained) / 2000, abs=1e-12)


@pytest.mark.parametrize(("right", "told"), [(520, True), (560, False), (80, True)])
def test_a_model_at_chance_says_nothing_of_its_layers(right, told):
    metric = Metric("val/accuracy", "max", right / 1000, 1000, chance=0.51)
    found = layer_findings(metric, [changed(0, 0, metric=metric)])
    said = "is not clearly better than always naming the commonest class (51.00 %)"
    assert (said in layer_conclusion(found)) == told
    none, line = changed(0, 0, "no Phi", metric), changed(0, 0, "linear part", metric)
    assert (said in attention_conclusion(attention_findings(metric, [none, line]))[0]) == told


def test_metrics_without_examples():
    assert judge(LOSS, replacement("constant", 0.504)) == "enough"
    assert judge(LOSS, replacement("constant", 0.506)) == "not enough"
    assert judge(LOSS, replacement("constant", math.nan)) == "not enough"
    assert outcome(LOSS, replacement("constant", 0.6)) == "the model is 0.1 worse, from 0.5 val/loss"
    assert outcome(LOSS, replacement("constant", 0.4)) == "the model is 0.1 better, from 0.5 val/loss"
    assert outcome(LOSS, replacement("constant", 0.5)) == "the model is as good, at 0.5 val/loss"
    assert "not finite" in outcome(LOSS, replacement("constant", math.inf))


def test_several_angles_that_are_not_used():
    found = layer_findings(ACCURACY, [changed(900, 10), changed(10, 8, "single-angle part")])
    said = layer_conclusion(found)
    assert said.startswith("Could not be tried: the classical series (see below). With its")
    assert said[said.index("With") :].startswith(
        "With its single-angle part in place of model.head.circuit, the model loses 0.10 points of 95.30 % "
        "val/accuracy (95 % interval of the loss: \u2212"
    )
    assert said.endswith("): what several angles do together is not used.")


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [
        ([changed(0, 0), changed(0, 0, "single-angle part")], "With a constant in place of .* a constant is enough"),
        (
            [changed(900, 0), changed(200, 0, "single-angle part"), changed(5, 4, "classical series")],
            "With a refitted classical series .* a classical series of 3 terms does it",
        ),
        (
            [changed(900, 0), changed(200, 0, "single-angle part"), changed(100, 0, "classical series")],
            r"No classical replacement .* the classical series, the model loses 5\.00 points .*\. The layer itself "
            "is a classical series of 625 terms",
        ),
        (
            [changed(900, 0)],
            r"^Could not be tried: the single-angle part \(114 rows\) and the classical series \(no data\)\. "
            "What could be tried is not enough for .*, and the rest stays open: with the constant, the model loses",
        ),
        ([changed(900, 0), changed(60, 50, "single-angle part")], "2,000 validation examples are too few to tell"),
        ([], "Nothing can be said of model.head.circuit: A note"),
    ],
)
def test_conclusions_on_layers(replacements, expected):
    untried = {"single-angle part": "114 rows", "classical series": "no data"}
    assert re.search(expected, layer_conclusion(replace(layer_findings(ACCURACY, replacements), untried=untried)))


def test_conclusions_on_attention():
    none, line = changed(300, 0, "no Phi"), changed(2, 2, "linear part")
    (said,) = attention_conclusion(attention_findings(ACCURACY, [none, line]))
    assert said.startswith(
        "With Phi's linear part alone in model.blocks.0.attention, the model loses nothing of 95.30 %"
    )
    assert said.endswith("Phi acts as a temperature, scores times 1.2 to 4.")
    (said,) = attention_conclusion(attention_findings(ACCURACY, [changed(1, 1, "no Phi"), line]))
    assert said.endswith("what circuits add to the scores is not used.")
    bent = changed(300, 0, "linear part")
    first, both = attention_conclusion(attention_findings(ACCURACY, [changed(1, 1, "no Phi"), line, none, bent]))
    assert first.startswith("Without Phi in model.blocks.0.attention")
    assert both.startswith("With Phi's linear part alone in all 2 layers at once, the model loses 15.00 points")
    assert both.endswith("Phi is used as a curve, a series of 8 terms in one angle.")
    (said,) = attention_conclusion(attention_findings(ACCURACY, [none, changed(60, 50, "linear part")]))
    assert "too few to tell" in said
    assert attention_conclusion(attention_findings(ACCURACY, []))[0].startswith("Nothing can be said")
