"""Tables hold the numbers of the analysis."""

from dataclasses import replace

import pytest

from lightning_qsgd.comparison import background, tables
from lightning_qsgd.comparison.analysis import analyse
from tests.comparison.common import fake_results


def cells(table, row):
    """By header, of the row with this first cell."""
    (found,) = [cells for cells in table.rows if cells[0] == row]
    return dict(zip([name for name, _ in table.headers()], found))


def test_a_contrasts_row():
    analysis = analyse(fake_results({"a": 0.0, "b": 0.03}, ["b - a"], gatekeeper="b - a"))
    row = cells(tables.contrasts(analysis), "b - a (gatekeeper)")
    assert (row["verdict"], row["exploratory"], row["n"], row["difference (points)"]) == ("better", "no", "10", "+3.00")
    assert row["p Holm"] == "0.002"  # 2 / 2**10
    assert row["wins / ties / losses"] == "10/0/0"
    more = cells(tables.details(analysis), "b - a")
    assert (more["pairing"], more["p sign\u2011flip"]) == ("full / full", "0.002")
    assert more["BCa interval"].endswith("(95 %)")


def test_diverged_runs_have_no_size():
    gone = [("b", seed) for seed in range(1, 9)]
    analysis = analyse(fake_results({"a": 0.0, "b": 0.03, "c": 0.0}, ["b - a"], diverged=[*gone, ("c", 1)]))
    row = cells(tables.contrasts(analysis), "b - a")
    assert (row["difference (points)"], row["simultaneous interval"]) == ("\u2013", "8 of 10 runs of b diverged")
    row = cells(tables.arms(analysis), "b")
    assert row["runs"] == "8 of 10 diverged"
    assert row["mean of last 3 (%)"].endswith("(of 2)")
    assert float(row["mean of last 3 (%)"].split()[0]) > 90
    assert cells(tables.descriptive(analysis), "c")["mean (points)"] == "1 of 10 diverged"


def test_an_arms_row():
    row = cells(tables.arms(analyse(fake_results({"a": 0.0, "b": 0.03}, failed=[("b", 1)]))), "b")
    assert row["runs"] == "9/0/1"
    assert row["mean of last 3 (%)"].startswith("93.0")
    assert set(row) >= {"final (%)", "best (%)", "averaged weights (%)", "test (%)"}


def test_misses_count_as_infinite():
    analysis = analyse(fake_results({"a": 0.05, "b": -0.1}))
    table = tables.times(analysis, "0.9")
    assert cells(table, "a")["reached"] == "10 of 10"
    assert cells(table, "b") == {
        "arm": "b",
        "reached": "0 of 10",
        "median epochs": "\u221e",
        "restricted mean epochs": "12.0",
        "median steps": "\u221e",
        "median seconds": "\u221e",
    }


def test_arms_without_a_contrast_are_only_described():
    table = tables.descriptive(analyse(fake_results({"a": 0.0, "b": 0.0, "c": -0.02}, ["b - a"])))
    assert [row[:3] for row in table.rows] == [("c", "10", "\u22122.00")]
    assert table.rows[0][-1] == "full"
    assert "not judged" in table.caption


def test_live_cost_and_claims():
    live = {"b": {"norm_ratio": 0.004, "effective": 1200.0}}
    analysis = analyse(fake_results({"a": 0.0, "b": 0.03}, live=live, claims={"b": ["a"]}))
    (row,) = tables.live(analysis).rows
    assert row[:3] == ("b", "0.4", "1,200")
    assert row[-1].startswith("The perturbation is 0.4 % of Adam's step")
    assert cells(tables.costs(analysis), "b")["seconds / a's"] == "1.05"
    assert cells(tables.claims(analysis), "b - a")["beaten"] == "yes"


@pytest.mark.parametrize(
    "make", [tables.live, tables.claims, background.unfinished, background.tuning, background.pairing]
)
def test_tables_of_nothing_have_no_rows(make):
    results = fake_results({"a": 0.0})
    assert make(analyse(replace(results, runs=[]))).rows == []
