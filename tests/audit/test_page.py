"""The page of an audit is whole, opens offline, and is written completely or not at all."""

import errno
import os
import re

import pytest

from lightning_qsgd.audit import PerturbationFindings
from lightning_qsgd.audit.page import perturbation_task, write_page
from lightning_qsgd.audit.saved import load_findings
from tests.audit.common import TENSORS, fake_findings, fake_shares
from tests.comparison.test_html import Page

SAID = ["A table of numbers does the same."]
NOTHING = fake_shares(0, 0, 0, 0, power=0)


def written(folder, findings=None, verdict=None):
    findings = findings or fake_findings()
    paths = write_page("title", [perturbation_task(findings, SAID, verdict)], {"perturbation": findings}, folder)
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    return (folder / "audit.html").read_text(), (folder / "audit.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    written(folder, verdict=["No circuit-specific effect."])
    return folder


def test_it_is_one_page_that_loads_nothing(folder):
    page = (folder / "audit.html").read_text()
    found = Page(page)
    sources = [attrs[key] for _, attrs in found.elements for key in ("src", "srcset", "href") if key in attrs]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<script", page)
    ids = {attrs["id"] for _, attrs in found.elements if "id" in attrs}
    assert {link["href"][1:] for link in found.all("a")} == ids
    assert len(found.all("img")) == len(found.all("source")) == 3
    assert all(len(attrs["alt"]) > 60 for attrs in found.all("img"))


def test_the_conclusion_is_first_then_the_subject_and_the_verdict_is_last(folder):
    page, summary = (folder / "audit.html").read_text(), (folder / "audit.md").read_text()
    for text in (Page(page).text, summary):
        places = [text.index(said) for said in (SAID[0], "Audited: ", "What it consists of", "No circuit-specific")]
        assert places == sorted(places)
    assert summary.rstrip().endswith("No circuit-specific effect.")
    assert "comparison of training algorithms" not in page.lower()


def test_without_a_comparison_nothing_is_said_about_training(tmp_path):
    page, summary = written(tmp_path)
    for text in (Page(page).text, summary):
        assert "Does it matter for training?" not in text
        assert "A share of power is no effect on training" in text


def test_findings_lie_beside_it(folder):
    assert load_findings(folder / "findings.json", "perturbation", PerturbationFindings) == fake_findings()


def test_the_summary_shows_the_figures_beside_it(folder):
    shown = re.findall(r"\]\((figures/\w+\.svg)\)", (folder / "audit.md").read_text())
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in (folder / "figures").iterdir())
    assert len(shown) == 3


def test_the_same_findings_give_the_same_files(folder, tmp_path):
    written(tmp_path, verdict=["No circuit-specific effect."])
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder, tmp_path)
    )
    assert first == second


def test_names_are_no_markup(tmp_path):
    name = "<b>&$x_$|`"
    findings = fake_findings(tensors=[f"m.{name}", "m.other"], identity=f"{name}(a=1)", shares=fake_shares(rows=2000))
    page, summary = written(tmp_path, findings)
    assert "<b>" not in page + summary
    assert f"Audited: {name}(a=1)" in Page(page).text


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "spans": 1},
        {"qubits": 1, "tensors": TENSORS[:1], "intervals": {}},
        {"per_tensor": {}, "uniform": None, "truncation": None, "device_error": None},
        {"shares": fake_shares(0.0, 0.0, 0.0, 1.0), "sampled": True, "shots": 1024, "effective": None},
        {
            "shares": NOTHING,
            "over_time": {0: NOTHING},
            "per_tensor": {"a": NOTHING},
            "per_qubit": [NOTHING] * 4,
            "maps": {"sine": 0.0},
            "points": ("sine", [(0.0, 0.0)]),
        },
    ],
    ids=["one step", "one qubit", "little known", "rest", "no power"],
)
def test_odd_findings_give_a_readable_page(tmp_path, changes):
    page, summary = written(tmp_path, fake_findings(**changes))
    for text in (Page(page).text, summary):
        assert not re.search(r"\b(nan|inf|None)\b", text.replace("center=None", ""))


def test_several_parts_have_figures_and_anchors_of_their_own(tmp_path):
    findings = fake_findings()
    parts = [perturbation_task(findings, SAID, key=key, title=f"Part {key}") for key in ("one", "two")]
    write_page("title", parts, {"one": findings, "two": findings}, tmp_path)
    page = Page((tmp_path / "audit.html").read_text())
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert {"one-power", "two-power"} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert {path.name[:4] for path in (tmp_path / "figures").iterdir()} == {"one_", "two_"}


def test_no_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Invalid tasks"):
        write_page("title", [], {}, tmp_path)


def test_a_full_disk_leaves_no_half_written_file(folder, tmp_path, monkeypatch):
    findings, fsync = fake_findings(), os.fsync
    tasks = [perturbation_task(findings, SAID, ["No circuit-specific effect."])]
    for room in range(6):  # files that it has room for
        left = iter(range(room))

        def full(handle, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        output = tmp_path / str(room)
        with pytest.raises(OSError, match="No space left"):
            write_page("title", tasks, {"perturbation": findings}, output)
        there = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
        assert len(there) == room
        assert all((output / path).read_bytes() == (folder / path).read_bytes() for path in there)
