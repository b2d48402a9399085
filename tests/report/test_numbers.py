"""Printed numbers."""

import math

import pytest

from lightning_qsgd.report.numbers import NONE, Numbers, count, direction_of, listed, number, p_value, percent, plain

PERCENT, PLAIN = Numbers("%"), Numbers("")


def test_values_and_differences_have_their_metrics_unit():
    assert PERCENT.value(0.91234) == "91.23"
    assert PERCENT.with_unit(PERCENT.value(0.9)) == "90.00 %"
    assert PERCENT.difference(-0.0123) == "\u22121.23"
    assert PERCENT.with_unit(PERCENT.difference(0.01), difference=True) == "+1.00 points"
    assert [PERCENT.difference(x) for x in (-1e-9, 0.0, 1e-9)] == ["0.00"] * 3
    assert [PERCENT.full(0.9), PERCENT.by(-0.01), PERCENT.amount(-0.01)] == [
        "90.00 %",
        "\u22121.00 points",
        "1.00 points",
    ]
    assert PLAIN.value(1.23456) == "1.235"
    assert PLAIN.with_unit(PLAIN.difference(0.5), difference=True) == "+0.5"


def test_spread_and_interval():
    assert PERCENT.spread([0.9, 0.92]) == "91.00 \u00b1 1.41"
    assert [PERCENT.spread([0.9]), PERCENT.spread([])] == ["90.00", NONE]
    assert PERCENT.interval(-0.01, 0.02) == "\u22121.00 to +2.00"
    assert PERCENT.interval(math.nan, math.nan) == NONE


@pytest.mark.parametrize(
    ("x", "text"),
    [(None, NONE), (math.nan, NONE), (math.inf, "\u221e"), (-math.inf, "\u2212\u221e"), (-2.0, "\u22122")],
)
def test_numbers_that_are_none(x, text):
    assert number(x) == text


@pytest.mark.parametrize("form", [".4f", "+.4f", ".3g", "+.2f", ".2e"])
def test_what_rounds_to_zero_has_no_sign(form):
    assert number(-1e-12 if "f" in form else -0.0, form) == number(0.0, form)
    assert not set(number(-0.0, form)[:1]) & set("+-\u2212")


def test_signs():
    assert [number(x, "+.1f") for x in (1, -1)] == ["+1.0", "\u22121.0"]
    assert number(-1e-5) == "\u22121e-05"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (0.5, "0.5"),
        (-0.0, "0"),
        ([1, 2, 3], "1 to 3"),
        ([1, 3], "1, 3"),
        ([], NONE),
        (None, NONE),
        ({"memory_GB": 8.0, "cores": [1, 2]}, "memory GB 8, cores 1, 2"),
    ],
)
def test_plain_values_are_no_python(value, text):
    assert plain(value) == text


def test_words():
    assert [p_value(1e-6), p_value(2 / 1024), p_value(0.5)] == ["< 0.0001", "0.002", "0.50"]
    assert [count(1, "run"), count(2000, "run")] == ["1 run", "2,000 runs"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["", "a", "a, b and c"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.97834, "97.83 %"),
        (0.0001, "0.01 %"),
        (0.00009, "<0.01 %"),
        (1e-15, "0 %"),
        (-1e-15, "0 %"),
        (0.0, "0 %"),
        (1 - 1e-6, ">99.99 %"),
        (1 - 1e-15, "100 %"),
        (1.5, "150.00 %"),
        (-0.00002, ">\u22120.01 %"),
        (-0.5, "\u221250.00 %"),
        (-123456.7, "\u221212,345,670 %"),
        (None, NONE),
        (math.nan, NONE),
        (-math.inf, "\u2212\u221e"),
    ],
)
def test_shares_are_neither_nothing_nor_all_by_rounding(share, text):
    assert percent(share) == text


def test_the_direction_of_a_metric_follows_from_the_end_of_its_name():
    lower = ["loss", "val/loss", "train/loss_epoch", "val/mse", "val_rmse", "val/MAE", "test/calibration_error"]
    higher = ["val/accuracy", "val_acc", "val/f1", "val/r2", "val/skill"]
    unknown = ["", "val/energy", "val/lossless", "terror", "val/loss/weight", "floss"]
    assert [[direction_of(name) for name in names] for names in (lower, higher, unknown)] == [
        ["min"] * len(lower),
        ["max"] * len(higher),
        [None] * len(unknown),
    ]
