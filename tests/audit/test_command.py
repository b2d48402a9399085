"""The command audit, as it is typed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_qsgd.audit.findings import load_findings
from lightning_qsgd.cli import main
from tests.common import SMALL, TINY_ARGUMENTS, fails

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
TWO = "--model.optimizer.perturbation.num_qubits=2"
EXACT = "--model.optimizer.perturbation.sampler=lightning_qsgd.quantum.ExactSampler"
WHOLE = ["--model.optimizer.scope=all", "--model.optimizer.scale=adam"]
GIVEN = ["--config", "configs/seqcls.yaml", *SMALL, *TINY_ARGUMENTS, "--trainer.max_epochs=1"]


@pytest.fixture
def root(tmp_path):
    return ["--trainer.default_root_dir", str(tmp_path)]


def test_a_run_is_trained_and_audited(root, tmp_path, capsys):
    main(["audit", *GIVEN, EXACT, *WHOLE, "--model.optimizer.perturbation.rotations=zero", *root])
    folder = tmp_path / "seqcls" / "version_0"
    printed = capsys.readouterr().out
    assert "training seconds" in printed
    assert "The perturbation is" in printed
    assert "of its power" in printed
    assert f"Audit: {folder / 'audit' / 'audit.html'}" in printed
    found = load_findings(folder / "audit" / "findings.json")["perturbation"]
    assert found.steps == [0, 1, 2]
    assert found.settings["scale"] == "adam"
    assert found.norm_ratio > 0.1
    assert found.shares.constant > 0.3
    page = (folder / "audit" / "audit.html").read_text()
    assert "learning-rate factor" in page
    assert (folder / "checkpoints" / "last.ckpt").is_file()  # it is a run like any other


def test_checkpoints_are_audited_without_training(root, tmp_path, capsys):
    main(["fit", *GIVEN, EXACT, *WHOLE, *root])
    run = tmp_path / "seqcls" / "version_0"
    main(["audit", *GIVEN, EXACT, *WHOLE, *root, "--ckpt_path", str(run), "-o", str(tmp_path / "out")])
    found = load_findings(tmp_path / "out" / "findings.json")["perturbation"]
    assert found.steps[-1] == 3
    assert found.norm_ratio is None
    assert not (tmp_path / "seqcls" / "version_1").exists()


def test_the_circuit_of_the_docs(root, tmp_path, monkeypatch):
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["my_circuit.py", "my_circuit.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = [line for line in blocks[0][1].splitlines() if line]
    assert len(lines) - sum(line.startswith(("from", "import")) for line in lines) <= 10
    main(["audit", *GIVEN, "--config", str(tmp_path / "my_circuit.yaml"), EXACT, *root, "-o", str(tmp_path / "out")])
    found = load_findings(tmp_path / "out" / "findings.json")["perturbation"]
    assert found.identity.startswith("Ring(")
    assert found.truncation.candidates == 4 * 3**4
    assert found.shares.multi > 0.01


def test_a_quantum_head_and_no_perturbation(root, tmp_path, capsys):
    given = ["--config", "configs/seqcls_quantum_head.yaml", *SMALL, *TINY_ARGUMENTS, "--trainer.max_epochs=1", *root]
    main(["audit", *given, "--config", "configs/overlay/adamw.yaml", "-o", str(tmp_path / "out")])
    names = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert [*names] == ["model.head.circuit"]
    assert "model.head.circuit" in (tmp_path / "out" / "audit.md").read_text()


def test_what_cannot_be_audited_is_refused_in_one_line(root, tmp_path, capsys):
    adamw = ["--config", "configs/overlay/adamw.yaml", *root]
    assert "Nothing to audit: no step was perturbed" in fails(capsys, "audit", *GIVEN, *adamw)
    assert "Invalid compare" in fails(capsys, "audit", *GIVEN, *adamw, "--compare")
    few = ["--data.train_size=32", EXACT, *root]
    assert "this circuit's split needs 170" in fails(capsys, "audit", *GIVEN, *few)
    two = ["--trainer.devices=2", "--trainer.accelerator=cpu", *root]
    assert "Invalid trainer.devices" in fails(capsys, "audit", *GIVEN, *two)
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "Cannot write" in fails(capsys, "audit", *GIVEN, EXACT, *root, "-o", str(blocked / "x"))
    assert "not found" in fails(capsys, "audit", *GIVEN, *root, "--ckpt_path", str(tmp_path / "none.ckpt"))


@pytest.mark.slow
def test_stopped_among_its_twins_it_goes_on_to_the_verdict(root, tmp_path):
    out = tmp_path / "out"
    given = [*GIVEN, EXACT, TWO, *WHOLE, *root, "-o", str(out), "--compare", "--seeds", "2", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_qsgd", "audit", *given],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for background jobs
    )
    while process.poll() is None and not list(out.glob("twins/runs/*/*/*/result.json")):
        time.sleep(0.1)
    time.sleep(1)  # in the next run: between two, a Profiler's __del__ would swallow it
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # again, should it have come within a __del__
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    stopped = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 130
    assert f"continue with --ckpt_path {tmp_path}/seqcls/version_0/checkpoints --compare -o {out}" in stopped
    ended = {path: path.stat().st_mtime for path in out.glob("twins/runs/*/*/*/result.json")}
    again = ["--ckpt_path", str(tmp_path / "seqcls" / "version_0" / "checkpoints")]
    main(["audit", *given, *again])
    assert all(path.stat().st_mtime == when for path, when in ended.items())

    page = (out / "audit.html").read_text()
    assert "Does it matter for training?" in page
    assert "exploratory" in page
    runs = json.loads((out / "twins" / "results.json").read_text())["runs"]
    arms = {run["arm"] for run in runs}
    assert {"adamw", "circuit", "circuit/frozen", "circuit/scalar", "circuit/series", "sine", "product"} <= arms
    assert (out / "twins" / "report.html").is_file()


def test_what_was_found_of_the_perturbation_stays_where_layers_fail(root, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_qsgd.audit.command.audit_model", lambda *_: 1 / 0)
    with pytest.raises(SystemExit):
        main(["audit", *GIVEN, EXACT, *WHOLE, *root, "-o", str(tmp_path / "out")])
    assert load_findings(tmp_path / "out" / "findings.json")["perturbation"].shares.power > 0
