"""The examples run, by the commands that their docstrings give."""

import ast
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lightning_qsgd.cli import main
from tests.common import SMALL

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def commands(name):
    """Those in an example's docstring, as words; what is in brackets may be left out, and is."""
    text = ast.get_docstring(ast.parse((EXAMPLES / name).read_text())) or ""
    found = re.findall(r"python ((?:.*\\\n)*.*)", text)
    return [shlex.split(re.sub(r"\[.*?\]", "", line.replace("\\\n", " "))) for line in found]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A copy of the folder, in which commands run."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(tmp_path / "examples")
    for path in EXAMPLES.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)


def run(name, *short, command=0):
    words = commands(name)[command]
    assert words[:2] == ["-m", "lightning_qsgd"]
    main([*words[2:], *(SHORT if words[2] != "test" else SHORT[1:]), *short])


def test_every_example_is_run_here():
    tested = set(re.findall(r"\w+\.py", Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} <= {path.stem for path in EXAMPLES.glob("*.py")}


def test_own_data():
    run("own_data.py", "--data.train_size=320")
    summary = json.loads(Path("logs/own_data/version_0/summary.json").read_text())
    assert summary["val/accuracy final"] > 0.6  # after 10 steps; chance is 0.5
    assert summary["circuits"] == 657


def test_own_data_fits_on_a_page():
    lines = (EXAMPLES / "own_data.py").read_text().partition('"""\n\n')[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 32


def test_plain_pytorch(monkeypatch, capsys):
    ((script,),) = commands("plain_pytorch.py")
    monkeypatch.setattr(sys, "argv", [script, "--epochs", "2", "--train_size", "64"])
    runpy.run_path(script)
    *epochs, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in epochs] == ["1", "2"]
    assert last == "625 circuits, 640000 shots"


@pytest.mark.slow
def test_plain_pytorch_trains(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plain_pytorch.py"])
    runpy.run_path("plain_pytorch.py")
    accuracies = [float(line.split()[2]) for line in capsys.readouterr().out.splitlines()[:12]]
    assert sum(accuracies[-3:]) / 3 >= 0.85  # single epochs jump by points


def test_hybrid_head():
    run("hybrid_head.py", *SMALL)
    weights = torch.load("logs/hybrid/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert weights["model.head.circuit.weights"].shape == (12,)
    run("hybrid_head.py", *SMALL, "--data.test_size=20", command=1)
    assert json.loads(Path("logs/hybrid/version_0/test.json").read_text())["circuits"] == 20


def test_own_circuit(capsys):
    run("own_circuit.py", *SMALL)
    found = json.loads(Path("logs/own_circuit/version_0/audit/findings.json").read_text())["findings"]["perturbation"]
    assert found["identity"].startswith("Ring(num_qubits=4, circuit=")
    printed = " ".join(capsys.readouterr().out.split())
    assert "As it ran (FakeBackendSampler on FakeManilaV2, 1,024 shots), the circuit is" in printed
    page = Path("logs/own_circuit/version_0/audit/audit.md").read_text()
    assert "circuits: FakeBackendSampler on FakeManilaV2, 1,024 shots" in page
