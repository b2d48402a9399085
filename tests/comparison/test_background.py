"""Tables of settings, tuning, hashes and provenance."""

from lightning_qsgd.comparison import background
from lightning_qsgd.comparison.analysis import analyse
from tests.comparison.common import fake_results
from tests.comparison.test_tables import cells


def test_what_the_arms_are():
    results = fake_results({"a": 0.0, "b": 0.0, "b/frozen": 0.0}, twins={"b": ["frozen"]}, seeds=1, noise=0.0)
    results.comparison.arms["b"].set = {"optimizer.lr": 0.01}
    table = background.settings(analyse(results))
    assert "configs/seqcls.yaml" in table.caption
    assert cells(table, "b") == {
        "arm": "b",
        "files": "\u2013",
        "settings": "lr = 0.01",
        "twins": "frozen",
        "tuned as": "\u2013",
    }


def test_tuning_shows_what_was_borrowed():
    results = fake_results({"a": 0.0, "b": 0.0}, tuned_as={"b": "a"}, trials=3)
    table = background.tuning(analyse(results))
    assert table.rows == [
        ("a", "lr = 0.003", "lr = 0.001", "89.90", "3", "no"),
        ("b", "lr = 0.003", "lr = 0.001", "\u2013", "as a", "\u2013"),
    ]
    results.arms["a"]["edge"] = ["optimizer.lr"]
    assert cells(background.tuning(analyse(results)), "a")["on the edge"] == "optimizer.lr"


def test_unfinished_runs_and_hashes():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=2, diverged=[("b", 2)])
    results.of("b")[1].hashes["batches"] = ["other"]
    analysis = analyse(results)
    assert background.unfinished(analysis).rows == [
        ("b", "2", "evaluation", "diverged", "FloatingPointError: loss is nan")
    ]
    pairing = background.pairing(analysis)
    assert cells(pairing, "1")["batches"] == "2 different"
    assert cells(pairing, "2")["batches"] == "b2e12"


def test_provenance_is_readable():
    table = background.provenance(analyse(fake_results({"a": 0.0})))
    assert cells(table, "hardware")["value"] == "cores 2, memory GB 8"
    assert cells(table, "evaluation seeds")["value"] == "1 to 10"
    assert cells(table, "complete")["value"] == "yes"


def test_settings_that_end_alike_are_written_out():
    results = fake_results({"a": 0.0, "b": 0.0}, seeds=1)
    results.comparison.arms["b"].set = {"optimizer.seed": 1, "perturbation.seed": 2}
    table = background.settings(analyse(results))
    assert cells(table, "b")["settings"] == "optimizer.seed = 1, perturbation.seed = 2"
