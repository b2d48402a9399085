"""The page of an audit, as a whole; it is written completely or not at all."""

import errno
import os
import re
from dataclasses import replace

import pytest

from lightning_qsgd.audit import page as audit_page
from lightning_qsgd.audit.findings import Metric, Shares, load_findings
from lightning_qsgd.audit.page import write_audit
from tests.audit.common import TENSORS, fake_findings, fake_shares
from tests.audit.model_findings import attention_findings, layer_findings, replacement
from tests.report import golden
from tests.report.test_page import Page, check_whole

NOTHING = fake_shares(0, 0, 0, 0, power=0)


ACCURACY = Metric("val/accuracy", "max", 0.953, 2000)
LAYER = replace(
    layer_findings(
        ACCURACY, [replacement("constant", 0.5, 920, 14), replacement("single-angle part", 0.952, 10, 8)], outputs=20
    ),
    untried={"classical series": "there are no training data"},
)
ATTENTION = attention_findings(ACCURACY, [replacement("no Phi", 0.9, 120, 14), replacement("linear part", 0.953, 2, 2)])
ODD = dict.fromkeys(("uniform", "truncation", "device_error", "effective")) | {
    "qubits": 1,
    "tensors": ("<b>&$x_$|`",),
    "intervals": {},
    "sampled": True,
    "shots": 1024,
    "norm_ratio": 0.001,
    "steps": 1,
    "spans": 1,
    "ran_on": "AerSampler, 1,024 shots",
    "settings": {"scale": "gradient", "target": "gradient"},
}
PLAIN = Metric("val/loss", "min", 0.3, 0)


def written(folder, findings=None, verdict=()):
    findings = findings if isinstance(findings, dict) else {"perturbation": findings or fake_findings()}
    paths = write_audit("title", findings, folder, verdict)
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    return (folder / "audit.html").read_text(), (folder / "audit.md").read_text()


@pytest.mark.parametrize(
    ("name", "findings"),
    [
        ("perturbation", {"perturbation": fake_findings()}),
        ("perturbation_odd", {"perturbation": fake_findings(**ODD)}),
        ("model", {"head": LAYER, "attention": ATTENTION}),
        ("model_bare", {"a": layer_findings(ACCURACY, []), "b": attention_findings(PLAIN, [])}),
        ("model_loss", {"a": layer_findings(PLAIN, [replacement("constant", 0.5)], shares=None)}),
    ],
)
def test_whole_pages(name, findings, tmp_path):
    verdict = ["No circuit-specific effect."] if name in ("perturbation", "model_loss") else ()
    page, summary = written(tmp_path, findings, verdict)
    golden.check(f"audit_{name}", summary)
    assert len(check_whole(page).all("img")) == summary.count("\n![")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    written(folder, verdict=["No circuit-specific effect."])
    return folder


def test_findings_lie_beside_it(folder):
    assert load_findings(folder / "findings.json")["perturbation"] == fake_findings()


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


def test_no_findings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Invalid findings"):
        write_audit("title", {}, tmp_path)


def test_findings_of_a_model_come_back_from_their_file(tmp_path):
    bare = replace(LAYER, shares=None, per_output=[], circuits=None, shots=None)
    written(tmp_path, {"head": LAYER, "bare": bare, "attention": ATTENTION})
    assert load_findings(tmp_path / "findings.json")["head"] == LAYER
    assert load_findings(tmp_path / "findings.json")["bare"] == bare
    assert load_findings(tmp_path / "findings.json")["attention"] == ATTENTION


@pytest.mark.parametrize(
    "found",
    [
        layer_findings(ACCURACY, [replacement("constant", 0.5)], Shares(0, 0, 0, 0, 0, 99), 1),
        attention_findings(ACCURACY, ATTENTION.replacements * 2, heads=9),
    ],
)
def test_odd_models_give_a_page(found, tmp_path):
    written(tmp_path, {"part": found})


def test_a_full_disk_leaves_no_half_written_file(folder, tmp_path, monkeypatch):
    findings, fsync, verdict = fake_findings(), os.fsync, ["No circuit-specific effect."]
    drawn = audit_page.part_of(findings, verdict=verdict)
    monkeypatch.setattr(audit_page, "part_of", lambda *_: drawn)
    for room in range(6):  # files that it has room for
        left = iter(range(room))

        def full(handle, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        output = tmp_path / str(room)
        with pytest.raises(OSError, match="No space left"):
            write_audit("title", {"perturbation": findings}, output, verdict)
        there = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
        assert len(there) == room
        assert all((output / path).read_bytes() == (folder / path).read_bytes() for path in there)


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("lightning_qsgd.audit.page", "write_page", "write_audit"),
        ("lightning_qsgd.experiment", "parse", r"Experiment\(config, overrides\)\.settings"),
    ],
)
def test_names_of_0_1_0_that_are_gone_say_what_replaced_them(module, name, now):
    with pytest.raises(ImportError, match=f"{name} of version 0.1.0 is gone; use {now}"):
        exec(f"from {module} import {name}")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {module} import nothing")
