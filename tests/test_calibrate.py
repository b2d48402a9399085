"""The command calibrate, and fit, test and predict with what it and the quantum head bring."""

import json

import numpy as np
import pytest

from lightning_qsgd.cli import main
from lightning_qsgd.quantum import Calibration, ExactSampler
from lightning_qsgd.quantum.hardware import _BatchSampler
from tests.common import SMALL

CONFIG = "configs/seqcls.yaml"
PERTURBATION = "--model.init_args.optimizer.init_args.perturbation.init_args"
EPOCH = [*SMALL, "--trainer.max_epochs=1"]


def calibrate(*arguments, config=CONFIG):
    main(["calibrate", "--config", config, f"{PERTURBATION}.num_qubits=2", *arguments])


def error(capsys, *arguments, **config):
    with pytest.raises(SystemExit, match="2"):
        calibrate(*arguments, **config)
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_trains_with_a_calibration_and_runs_no_circuit(tmp_path, capsys):
    path = tmp_path / "calibrations" / "manila.npz"
    calibrate("--output", str(path), f"{PERTURBATION}.sampler=lightning_qsgd.quantum.FakeBackendSampler")
    out = capsys.readouterr().out
    for words in (
        "FakeBackendSampler",
        "105",
        "107,520",
        "fit at held-out points",
        "p = ",
        "maximum age",
        "unlimited",
        f"calibration {path}",
    ):
        assert words in out
    assert Calibration.load(path).provenance["sampler"] == "FakeBackendSampler"
    options = [f"{PERTURBATION}.num_qubits=2", f"{PERTURBATION}.calibration={path}"]
    main(["fit", "--config", CONFIG, *EPOCH, *options, f"--trainer.default_root_dir={tmp_path}"])
    summary = json.loads((tmp_path / "seqcls" / "version_0" / "summary.json").read_text())
    assert summary["circuits"] == 0
    assert "calibration_fit_p" in (tmp_path / "seqcls" / "version_0" / "metrics.csv").read_text()


def test_a_dry_run_says_what_would_run_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampler = f"{PERTURBATION}.sampler=lightning_qsgd.quantum.ExactSampler"
    monkeypatch.setattr(ExactSampler, "run", lambda *_, **__: pytest.fail("a circuit ran"))
    calibrate("--dry-run", "--held_out", "10", "--references", "5", sampler)
    out = capsys.readouterr().out
    assert "40" in out
    assert "nothing was submitted" in out
    assert list(tmp_path.iterdir()) == []


def pretend_to_be_ibm(tmp_path, monkeypatch):
    """Answer for IBM's service by a fake device, in an empty folder."""
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    class Service:
        def least_busy(self):
            return FakeManilaV2()

        def active_account(self):
            return {}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_BatchSampler, "service", Service())


def test_hardware_time_is_estimated_before_submitting(tmp_path, capsys, monkeypatch):
    pretend_to_be_ibm(tmp_path, monkeypatch)
    sampler = f"{PERTURBATION}.sampler=lightning_qsgd.quantum.IBMSampler"
    calibrate("--dry-run", sampler)
    assert "estimated QPU time" in capsys.readouterr().out
    calibrate("--output", "x.npz", sampler, f"{PERTURBATION}.sampler.shots=128")
    facts = Calibration.load("x.npz").provenance
    assert (facts["max_age_days"], facts["backend"], facts["shots"]) == (1.0, "fake_manila", 128)
    assert facts["results"]["fit_p"] > 1e-4


def test_errors_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", "--config", CONFIG, "--config", "configs/overlay/adamw.yaml", "-o", "x.npz"])
    assert "has no CircuitPerturbation" in capsys.readouterr().err
    assert "add --output" in error(capsys)
    assert "Invalid held_out" in error(capsys, "-o", str(tmp_path / "x.npz"), "--held_out", "0")
    assert "78,125 grid points" in error(
        capsys, "-o", "x.npz", f"{PERTURBATION}.num_qubits=7", f"{PERTURBATION}.rotations=zero"
    )
    fake = (
        f"{PERTURBATION}.sampler={{class_path: lightning_qsgd.quantum.FakeBackendSampler, init_args: {{name: Fake1}}}}"
    )
    assert "Fake1" in error(capsys, "-o", "x.npz", fake)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.npz", tmp_path):
        assert f"Cannot write {path}" in error(capsys, "-o", str(path))
    for days in ("nan", "-1", "inf"):
        assert "Invalid max_age_days" in error(capsys, "-o", str(tmp_path / "x.npz"), "--max_age_days", days)
    assert "Invalid seed" in error(capsys, "-o", str(tmp_path / "x.npz"), "--seed", "-3")
    product = [f"{PERTURBATION}.num_qubits=12", f"{PERTURBATION}.entanglement=none"]
    assert "fit needs few circuits" in error(capsys, "-o", "x.npz", *product)


def test_the_hint_names_the_option_of_a_nested_circuit(tmp_path, capsys):
    main(["calibrate", "--config", CONFIG, "--config", "configs/overlay/frozen.yaml", "-o", str(tmp_path / "x.npz")])
    (hint,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Train with it: "))
    option = hint.removeprefix("Train with it: ").split()
    configs = ["--config", CONFIG, "--config", "configs/overlay/frozen.yaml"]
    main(["fit", *configs, *option, *EPOCH, "--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}"])


def test_ctrl_c_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ExactSampler, "run", interrupted)
    with pytest.raises(SystemExit, match="130"):
        calibrate("-o", str(tmp_path / "x.npz"), f"{PERTURBATION}.sampler=lightning_qsgd.quantum.ExactSampler")
    assert "x.npz was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_calibration_leaves_the_old_file(tmp_path, capsys):
    path = tmp_path / "x.npz"
    calibrate("--output", str(path))
    before = path.read_bytes()
    error(capsys, "--output", str(path), "--references", "1")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_a_series_that_does_not_describe_its_sampler_is_an_error_and_loses_nothing(tmp_path, capsys):
    path, kept = tmp_path / "x.npz", tmp_path / "x.rejected.npz"
    calibrate("--output", str(path))
    before = path.read_bytes()
    wrong = f"{PERTURBATION}.sampler=tests.quantum.wrong_samplers.OverRotating"
    shots = f"{PERTURBATION}.sampler.shots=20000"
    line = error(capsys, "--output", str(path), wrong, shots)
    for words in (
        f"error: {path} was not written",
        "residual of 0.0",
        "p < ",
        "LiveCircuitPerturbation",
        f"is in {kept}",
    ):
        assert words in line
    assert path.read_bytes() == before
    assert Calibration.load(kept).provenance["sampler"] == "OverRotating"
    first = kept.read_bytes()
    assert f"is in {tmp_path}/x.rejected2.npz" in error(capsys, "--output", str(path), wrong, shots)
    assert kept.read_bytes() == first
    options = [f"{PERTURBATION}.num_qubits=2", f"{PERTURBATION}.calibration={kept}"]
    main(["fit", "--config", CONFIG, *EPOCH, *options, f"--trainer.default_root_dir={tmp_path}"])


def test_a_rejected_calibration_is_measured_anew_the_next_time(tmp_path, capsys, monkeypatch):
    pretend_to_be_ibm(tmp_path, monkeypatch)
    monkeypatch.setattr("lightning_qsgd.quantum.goodness.FAR", 0)
    monkeypatch.setattr("lightning_qsgd.quantum.goodness.CHANCE", 1)
    sampler = [f"{PERTURBATION}.sampler=lightning_qsgd.quantum.IBMSampler", f"{PERTURBATION}.sampler.shots=128"]
    assert "x.rejected.npz" in error(capsys, "--output", "x.npz", *sampler)
    assert json.loads((tmp_path / "data" / "jobs.json").read_text())["jobs"] == {}
    assert not (tmp_path / "x.npz").exists()


def test_a_model_with_a_quantum_head_trains_here_and_is_tested_on_a_noisy_device(tmp_path, capsys):
    config = ["--config", "configs/seqcls_quantum_head.yaml", *EPOCH, f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", *config, "--model.head.num_qubits=2"])
    folder = tmp_path / "seqcls_quantum_head" / "version_0"
    device = ["--model.head.num_qubits=2", "--model.head.sampler=lightning_qsgd.quantum.FakeBackendSampler"]
    main(["test", *config, *device, "--ckpt_path=best", "--data.test_size=10"])
    metrics = json.loads((folder / "test.json").read_text())
    assert (metrics["circuits"], metrics["shots"], metrics["examples"]) == (10, 10 * 1024, 10)
    (engine,) = metrics["engines"]
    assert (engine["engine"], engine["shots"], engine["circuits"]) == ("FakeBackendSampler", 1024, 10)
    assert "manila" in engine["device"]
    assert np.isfinite(metrics["test/loss"])
    for other in ("--model.head=torch.nn.Linear", "--model.head.entanglement=none"):
        with pytest.raises(SystemExit):
            main(["test", *config, "--model.head.num_qubits=2", other, "--ckpt_path=best"])
        assert "another" in capsys.readouterr().err


def test_circuits_of_a_head_are_in_the_summary(tmp_path):
    config = ["--config", "configs/seqcls_quantum_head.yaml", *EPOCH, f"--trainer.default_root_dir={tmp_path}"]
    sizes = ["--data.train_size=4", "--data.batch_size=4", "--data.val_size=4", "--trainer.num_sanity_val_steps=0"]
    head = ["--model.head.num_qubits=2", "--model.head.sampler=lightning_qsgd.quantum.AerSampler"]
    main(["fit", *config, *sizes, *head])
    summary = json.loads((tmp_path / "seqcls_quantum_head" / "version_0" / "summary.json").read_text())
    assert summary["circuits"] == 4 * (1 + 2 * 10) + 4
    assert summary["shots"] == summary["circuits"] * 1024
