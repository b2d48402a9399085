"""Tables hold the numbers of the analysis."""

from dataclasses import replace

import pytest

from lightning_qsgd.comparison import tables
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
    assert row["level"] == "full / full"


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
    assert "not judged" in table.caption


def test_tuning_shows_what_was_borrowed():
    results = fake_results({"a": 0.0, "b": 0.0}, tuned_as={"b": "a"}, trials=3)
    table = tables.tuning(analyse(results))
    assert table.rows == [
        ("a", "lr = 0.003", "lr = 0.001", "89.90", "3", "no"),
        ("b", "lr = 0.003", "lr = 0.001", "\u2013", "as a", "\u2013"),
    ]
    results.arms["a"]["edge"] = ["optimizer.lr"]
    assert cells(tables.tuning(analyse(results)), "a")["on the edge"] == "optimizer.lr"


def test_live_cost_and_claims():
    live = {"b": {"norm_ratio": 0.004, "effective": 1200.0}}
    analysis = analyse(fake_results({"a": 0.0, "b": 0.03}, live=live, claims={"b": ["a"]}))
    (row,) = tables.live(analysis).rows
    assert row[:3] == ("b", "0.4", "1,200")
    assert row[-1].startswith("The perturbation is 0.4 % of Adam's step")
    assert cells(tables.costs(analysis), "b")["seconds / a's"] == "1.05"
    assert cells(tables.claims(analysis), "b - a")["beaten"] == "yes"


def test_unfinished_runs_and_hashes():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2, diverged=[("b", 2)])
    results.of("b")[1].hashes["batches"] = ["other"]
    analysis = analyse(results)
    assert tables.unfinished(analysis).rows == [("b", "2", "evaluation", "diverged", "FloatingPointError: loss is nan")]
    pairing = tables.pairing(analysis)
    assert cells(pairing, "1")["batches"] == "2 different"
    assert cells(pairing, "2")["batches"] == "b2e12"


def test_provenance_is_readable():
    table = tables.provenance(analyse(fake_results({"a": 0.0})))
    assert cells(table, "hardware")["value"] == "cores 2, memory GB 8"
    assert cells(table, "evaluation seeds")["value"] == "1 to 10"
    assert cells(table, "complete")["value"] == "yes"


@pytest.mark.parametrize("make", [tables.live, tables.unfinished, tables.tuning, tables.pairing, tables.claims])
def test_tables_of_nothing_have_no_rows(make):
    results = fake_results({"a": 0.0})
    assert make(analyse(replace(results, runs=[]))).rows == []
