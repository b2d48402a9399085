import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.audit.model_conclusions import (
    attention_conclusion,
    interval,
    judge,
    layer_conclusion,
    loss,
    outcome,
)
from lightning_qsgd.audit.model_findings import Metric
from tests.audit.model_findings import attention_findings, layer_findings, replacement

ACCURACY = Metric("val/accuracy", "max", 0.953, 2000)
LOSS = Metric("val/loss", "min", 0.5, 0)


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
    assert said.startswith(
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
        ([changed(900, 0), changed(60, 50, "single-angle part")], "2000 validation examples are too few to tell"),
        ([], "Nothing can be said of model.head.circuit: A note"),
    ],
)
def test_conclusions_on_layers(replacements, expected):
    assert re.search(expected, layer_conclusion(layer_findings(ACCURACY, replacements)))


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
