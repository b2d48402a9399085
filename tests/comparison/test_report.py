"""Reports of whole comparisons, also of those in which little or nothing went well."""

import csv
import re
import time
import warnings
from dataclasses import replace

import pytest

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.report import write_report
from lightning_qsgd.comparison.wording import summary
from lightning_qsgd.twin_names import LAYER_TWINS
from tests.comparison.common import fake_results
from tests.report import golden
from tests.report.test_page import check_whole

TWO = {"a": 0.0, "b": 0.03}


def report(folder, *results):
    """Written without a warning: the page, the summary, and the rows of the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write_report(results, folder)
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    return (folder / "report.html").read_text(), (folder / "report.md").read_text(), rows(folder)


def rows(folder):
    with (folder / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_row(tmp_path):
    results = fake_results(TWO, ["b - a"], diverged=[("a", 1)], failed=[("b", 2)], live={"b": {"norm_ratio": 0.25}})
    _, _, table = report(tmp_path, results)
    assert len(table) == len(results.runs)
    diverged, failed, fine = table[0], table[11], table[12]
    assert (diverged["status"], diverged["test/accuracy"]) == ("diverged", "")
    assert float(diverged["last"]) == pytest.approx(results.worst(), rel=1e-5)
    assert (failed["last"], failed["epoch to 0.9"], failed["error"]) == ("", "inf", "RuntimeError: out of memory")
    assert (fine["arm"], fine["seed"], fine["norm_ratio"]) == ("b", "3", "0.25")
    assert float(fine["last"]) == pytest.approx(results.value(results.runs[12]), rel=1e-5)
    assert table[-1]["phase"] == "tuning"


@pytest.mark.parametrize(
    "results",
    [
        fake_results(TWO),
        fake_results(TWO, ["b - a"], seeds=1, complete=False),
        fake_results(TWO, ["b - a"], seeds=2, failed=[(arm, seed) for arm in TWO for seed in (1, 2)]),
        fake_results(TWO, ["b - a"], seeds=2, diverged=[(arm, seed) for arm in TWO for seed in (1, 2)]),
        fake_results({"a": 0.0}, epochs=1),
        fake_results({"a": 0.0, "$<i>|": 0.1}, ["$<i>| - a"], claims={"$<i>|": ["a"]}, dose={"%s {x}": ["$<i>|"]}),
        replace(fake_results(TWO, ["b - a"]), runs=[]),
        replace(fake_results(TWO, ["b - a"]), runs=fake_results(TWO).runs[:7], targets={}),
    ],
    ids=[
        "plain",
        "one_seed",
        "failed",
        "diverged",
        "one_epoch",
        "names",
        "nothing",
        "only_baseline",
    ],
)
def test_each_case_gives_a_readable_report(results, tmp_path):
    page, summary, table = report(tmp_path, results)
    assert len(table) == len(results.runs)
    for text in (page, summary):
        assert not re.search(r"\b(nan|None|inf)\b", text.replace("loss is nan", ""))


def test_a_run_without_a_curve_or_hashes_is_no_obstacle(tmp_path):
    results = fake_results(TWO, ["b - a"], seeds=3)
    for run in results.of("b").values():
        run.curve, run.hashes, run.cost = {}, {}, {}
    page, _, _ = report(tmp_path, results)
    assert "inconclusive" in page


RICH = {
    "contrasts": ["b - a", "b - b/frozen", "c - a", "d - a"],
    "twins": {"b": ["frozen", "scalar"]},
    "gatekeeper": "b - a",
    "claims": {"b": ["a"]},
    "dose": {"s": ["a", "b"]},
    "live": {"b": {"norm_ratio": 0.004, "effective": 1200.0, "offset": -0.9, "spread": 0.02}, "c": {"norm_ratio": 0.3}},
    "diverged": [("c", 1)],
    "failed": [("d", 2)],
    "trials": 3,
}
FIVE = {"a": 0.0, "b": 0.03, "b/frozen": 0.028, "b/scalar": 0.02, "c": -0.02, "d": 0.0}


def layered():
    """A circuit that is better than all of its twins but one, with their numbers of parameters."""
    effects = {"circuit": 0.0} | {f"circuit/{twin}": -0.04 for twin in LAYER_TWINS} | {"circuit/mlp": 0.01}
    twins, contrasts = {"circuit": ["layers"]}, ["circuit - circuit/linear", "circuit - circuit/mlp"]
    results = fake_results(effects, contrasts, twins=twins, claims={"circuit": ["circuit/linear"]}, trials=3)
    for number, arm in enumerate(effects):
        for run in results.of(arm).values():
            run.cost["parameters"] = 1200 + number
    return results


def changed():
    results = fake_results({"a": 0.0, "b": 0.0, "c": 0.0}, ["b - a", "c - a"], seeds=4, complete=False)
    results.provenance["declared"] = {"at": "2026-01-02T03:04:05+00:00", "changes": ["metric.margin was 0.02"]}
    results.of("b")[1].hashes["seeds"] = ["other"]
    return results


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("rich", [fake_results(FIVE, **RICH)]),
        ("changed", [changed()]),
        ("layers", [layered()]),
        ("minimized", [fake_results(TWO, ["b - a"], mode="min", unit="", gatekeeper="b - a")]),
        ("equal", [fake_results({"a": 0.0, "b": 0.0}, ["b - a"], noise=0.0, gatekeeper="b - a", claims={"b": ["a"]})]),
        ("nothing", [replace(fake_results(TWO, ["b - a"]), runs=[], targets={}, provenance={}, arms={})]),
        ("two", [fake_results({"a": 0.0}, name=name, seeds=2, epochs=3) for name in ("one", "two <i>")]),
    ],
)
def test_whole_pages(name, results, tmp_path):
    page, summary, _ = report(tmp_path, *results)
    golden.check(f"comparison_{name}", summary)
    assert len(check_whole(page).all("img")) == summary.count("\n![")


def test_the_first_sentences_are_for_those_who_were_not_there():
    gone = [("b", 1), ("b", 2)]
    cases = {
        "worse": fake_results({"a": 0.0, "b": -0.03}, ["b - a"]),
        "better by less than the margin": fake_results({"a": 0.0, "b": 0.002}, ["b - a"], noise=0.0005),
        "inconclusive": fake_results({"a": 0.0, "b": 0.005}, ["b - a"], noise=0.02),
        "equivalent": fake_results({"a": 0.0, "b": 0.001}, ["b - a"], noise=0.003),
        "all differences zero": fake_results({"a": 0.0, "b": 0.0}, ["b - a"], noise=0.0),
        "some differences zero": fake_results({"a": 0.0, "b": 0.0, "c": 0.03}, ["b - a", "c - a"], noise=0.0),
        "diverged": fake_results({"a": 0.0, "b": 0.03}, ["b - a"], diverged=gone),
        "one pair": fake_results({"a": 0.0, "b": 0.03}, ["b - a"], seeds=1),
        "few pairs": fake_results({"a": 0.0, "b": 0.03}, ["b - a"], seeds=4),
        "no contrast": fake_results({"a": 0.0, "b": 0.03}),
        "one arm": fake_results({"a": 0.0}, seeds=1),
    }
    lines = []
    for name, results in cases.items():
        sentences = summary(analyse(results))
        assert len(sentences) == 3
        lines += [f"## {name}", "", *sentences, ""]
    golden.check("summaries", "\n".join(lines))


def test_no_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Invalid results"):
        write_report([], tmp_path)


@pytest.mark.slow
def test_a_big_comparison_stays_small_and_quick(tmp_path):
    twins = ["frozen", "constant", "scalar", "shuffled", "matched"]
    parents = {"p": twins, "q": twins, "r": twins}
    names = ["a", *(f"arm-{i}" for i in range(26)), *(n for p in parents for n in (p, *(f"{p}/{t}" for t in twins)))]
    effects = {name: 0.001 * (i % 7 - 3) for i, name in enumerate(names)}
    contrasts = [f"{name} - a" for name in names[1:24]]
    started = time.process_time()
    page, _, table = report(tmp_path, fake_results(effects, contrasts, twins=parents, dose={"s": names[1:4]}))
    assert time.process_time() - started < 60
    assert len(page) < 3e6
    assert len(table) == 452
