"""Files that 0.1.0 wrote are read as they were: fixtures/v010/README.md says how each was made."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from lightning_qsgd.cli import main
from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import Ansatz, Calibration, layered_circuit, score_circuit, superposition_circuit
from lightning_qsgd.quantum.fingerprint import of_ansatz

FIXTURES = Path("tests/fixtures/v010")  # relative, as the paths in the saved configurations
EXPECTED = json.loads((Path(__file__).parents[1] / FIXTURES / "expected.json").read_text())
RUNS = ["seqcls", "seqcls_large", "seqcls_quantum_head", "seqcls_quantum_attention", "textcls", "gsm8k"]
#: bfloat16 rounds differently on each kind of CPU.
MORE = {"gsm8k": ["--trainer.precision=32-true"]}
CALIBRATIONS = ["aer", "fake_manila"]
TOLERANCE = 1e-6


# ---- runs


def command(name, subcommand, root, *more):
    """Run a command with a saved run's own configuration and last checkpoint, on a copy; returns its folder."""
    if name == "gsm8k":
        pytest.importorskip("transformers")
    shutil.copytree(FIXTURES / "runs" / name, root / name)
    folder = root / name / "version_0"
    files = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    main([subcommand, *files, f"--trainer.default_root_dir={root}", *MORE.get(name, []), *more])
    return folder


def evaluated(name, root):
    """Metrics of the saved weights on the test data."""
    found = json.loads((command(name, "test", root) / "test.json").read_text())
    return {key: value for key, value in found.items() if key.startswith("test/")}


def resumed(name, root):
    """Losses of two more steps, and of the validation after one of them."""
    with (command(name, "fit", root, "--trainer.max_steps=4") / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) >= 2]
    return {
        f"{key} at {row['step']}": float(row[key]) for row in rows for key in ("train/loss", "val/loss") if row.get(key)
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_tested(name, tmp_path):
    assert evaluated(name, tmp_path) == pytest.approx(EXPECTED["evaluated"][name], abs=TOLERANCE, rel=TOLERANCE)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_resumed(name, tmp_path):
    assert resumed(name, tmp_path) == pytest.approx(EXPECTED["resumed"][name], abs=TOLERANCE, rel=TOLERANCE)


def test_a_run_is_not_resumed_sharded(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command("seqcls", "fit", tmp_path, "--config=configs/overlay/fsdp.yaml", "--trainer.max_steps=4")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "version 0.1.0 wrote; resume for one step without that strategy" in last


# ---- calibrations


def answers(name):
    """The perturbation that a calibration gives at some angles."""
    perturbation = CircuitPerturbation(num_qubits=2, calibration=str(FIXTURES / "calibrations" / f"{name}.npz"))
    perturbation.prepare()
    angles = torch.linspace(-3, 3, 12).reshape(6, 2)
    perturbation.layout = [(0, 12, 0)]
    s = perturbation(angles, step=0)
    assert perturbation.circuits == 0
    return s.tolist()


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_is_of_the_circuit_that_it_measured(name):
    path = FIXTURES / "calibrations" / f"{name}.npz"
    calibration, circuit = Calibration.load(path), CircuitPerturbation(num_qubits=2)
    calibration.check(circuit.ansatz, circuit.weights, path)
    assert calibration.results() == EXPECTED["calibrations"][name]["results"]
    with pytest.raises(ValueError, match="another circuit"):
        calibration.check(circuit.ansatz, circuit.weights + 0.1, path)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_answers_as_before(name):
    expected = np.array(EXPECTED["calibrations"][name]["answers"])
    np.testing.assert_allclose(answers(name), expected, atol=TOLERANCE, rtol=0)


# ---- comparisons


def test_results_are_reported(tmp_path):
    shutil.copytree(FIXTURES / "compare" / "tiny", tmp_path / "tiny")
    main(["report", str(tmp_path / "tiny")])
    assert "superpositional" in (tmp_path / "tiny" / "report.md").read_text()
    assert (tmp_path / "tiny" / "report.html").is_file()
    with (tmp_path / "tiny" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[row["arm"], row["phase"], row["seed"], row["last"]] for row in rows] == EXPECTED["comparison"]


# ---- fingerprints


def by_hand():
    x, w = ParameterVector("x", 2), ParameterVector("w", 2)
    circuit = QuantumCircuit(3)
    circuit.sx(0)
    circuit.ry(2 * x[0] - 0.5 * w[0] + 0.25, 0)
    circuit.cp(x[1] + w[1], 0, 1)
    circuit.rzz(-x[0] + 3 * x[1], 1, 2)
    circuit.swap(0, 2)
    circuit.rx(w[0] / 3, 1)
    return Ansatz(circuit, list(x), list(w))


def composite():
    x = ParameterVector("x", 2)
    plain, turned = QuantumCircuit(2), QuantumCircuit(1)
    plain.h(0)
    plain.crz(0.75, 0, 1)
    turned.ry(2 * x[0] + 0.5, 0)
    circuit = QuantumCircuit(2)
    circuit.append(turned.to_gate(), [0])
    circuit.append(plain.to_gate(), [1, 0])
    circuit.rz(x[1], 1)
    return Ansatz(circuit, list(x))


#: Circuits with their fixed weights, if any.
CIRCUITS = {
    "superposition of 1 qubit, depth 1": lambda: (superposition_circuit(1, 1), None),
    "superposition of 2 qubits": lambda: (superposition_circuit(2, 2), None),
    "superposition of 4 qubits": lambda: (superposition_circuit(), None),
    "superposition of 5 qubits, depth 3": lambda: (superposition_circuit(5, 3), None),
    "superposition without entanglement": lambda: (superposition_circuit(3, 2, "none"), None),
    "superposition with weights": lambda: (superposition_circuit(2, 2), np.arange(6) / 3),
    "superposition with the main job's weights": lambda: ((p := CircuitPerturbation()).ansatz, p.weights),
    "layered, angle encoding": lambda: (layered_circuit(3, 2, "angle"), None),
    "layered, reuploading": lambda: (layered_circuit(4, 2, "reuploading"), None),
    "layered with weights": lambda: (layered_circuit(2, 1), [0.1, -0.2]),
    "score": lambda: (score_circuit(4, 2), None),
    "score with final phases": lambda: (score_circuit(2, 2, final_phases=True), None),
    "by hand": lambda: (by_hand(), None),
    "by hand with weights": lambda: (by_hand(), [0.3, -1.2]),
    "with composite gates": lambda: (composite(), None),
}


def fingerprint(name):
    return of_ansatz(*CIRCUITS[name]())


@pytest.mark.parametrize("name", CIRCUITS)
def test_fingerprints_stay(name):
    assert fingerprint(name) == EXPECTED["fingerprints"][name]
