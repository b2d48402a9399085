import csv
import json
import re
from importlib.metadata import version

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_qsgd.cli import main
from lightning_qsgd.experiment import build
from lightning_qsgd.run_folder import next_version
from tests.common import FEW_SHOTS, SMALL, TINY_ARGUMENTS
from tests.optim.common import own_state

CONFIG = "configs/seqcls.yaml"


def run(command, *arguments):
    main([command, "--config", CONFIG, *SMALL, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs; its folder."""
    root = tmp_path_factory.mktemp("logs")
    run("fit", f"--trainer.default_root_dir={root}", "--trainer.max_epochs=2", "--time_to_target.target=0.1")
    return root / "seqcls" / "version_0"


def test_fit_fills_one_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"checkpoints", "config.yaml", "metrics.csv", "summary.json", "hparams.yaml"} <= names
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert [path.name for path in trained.parent.iterdir()] == ["version_0"]
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["epochs to 0.10"] == 1
    assert (summary["circuits"], summary["shots"]) == (625 + 32, (625 + 32) * 1024)  # the series, and its check
    assert 0 < summary["peak_memory_GB"] < 3
    assert summary["run_folder"] == str(trained)
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
    assert logged[-1] == pytest.approx(summary["val/accuracy final"], abs=1e-4)
    events = EventAccumulator(str(trained)).Reload()
    assert len(events.Scalars("train/loss")) == 6
    assert len(events.Scalars("val/accuracy")) == 2


def test_summary_is_printed_with_the_way_to_tensorboard(tmp_path, capsys):
    run("fit", f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1")
    out = capsys.readouterr().out
    for words in ("val/accuracy final", "epochs to 0.90", "training seconds", "circuits", "672768", "peak memory GB"):
        assert words in out
    assert f"tensorboard --logdir {tmp_path / 'seqcls'}" in out.replace("\n", "")
    assert "Circuit sampled on its grid: 625 circuits" in out
    assert "Series checked at random points: 32 circuits, residual 0.0" in out


def test_the_summary_of_a_run_without_circuits_does_not_count_them(tmp_path, capsys):
    run(
        "fit", f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1", "--model.optimizer=torch.optim.AdamW"
    )
    out = capsys.readouterr().out
    assert "training seconds" in out
    assert not re.search("circuit|shots|fallback", out)
    assert json.loads((tmp_path / "seqcls" / "version_0" / "summary.json").read_text())["circuits"] == 0


def test_few_batches_are_no_reason_to_warn(tmp_path, recwarn):
    few = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=50", "--model.optimizer=torch.optim.AdamW"]
    run("fit", f"--trainer.default_root_dir={tmp_path}", *few)
    assert not any("logging interval" in str(warning.message) for warning in recwarn)


def test_checkpoints_hold_plain_values_and_the_circuits_series(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["vocab_size"] == 64
    assert checkpoint["epoch"] == 2  # epochs done, the best or not
    state = own_state(checkpoint["optimizer_states"][0])
    assert state["surrogate.coefficients"].shape == (5, 5, 5, 5, 16)
    assert (state["step"], state["circuits"], state["surrogate.shots"]) == (6, 625 + 32, 1024)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_of_a_checkpoint_leaves_the_run_as_it_was(trained, command, capsys):
    before = {name: (trained / name).read_bytes() for name in ("config.yaml", "metrics.csv", "summary.json")}
    run(command, f"--ckpt_path={trained / 'checkpoints' / 'best.ckpt'}")
    name = ("val" if command == "validate" else "test") + "/accuracy"
    assert name in capsys.readouterr().out
    metrics = json.loads((trained / f"{command}.json").read_text())
    assert 0 < metrics[name] < 1
    assert metrics["checkpoint"].endswith("best.ckpt")
    assert len(list(trained.glob("events.*"))) == 1
    assert before == {name: (trained / name).read_bytes() for name in before}
    assert [path.name for path in trained.parent.iterdir()] == ["version_0"]


def test_predict_writes_probabilities(trained, capsys):
    run("predict", f"--ckpt_path={trained / 'checkpoints' / 'best.ckpt'}", "--predictions.all_classes=true")
    assert f"Predictions: {trained / 'predictions.csv'}" in capsys.readouterr().out
    with open(trained / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(i) for i in range(70)]
    for row in rows:
        probabilities = [float(row[f"p({c})"]) for c in range(4)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == max(probabilities) == probabilities[int(row["label"])]


def test_a_run_repeats_and_the_next_gets_its_own_folder(trained):
    root = trained.parent.parent
    run("fit", f"--trainer.default_root_dir={root}", "--trainer.max_epochs=2")
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, root / "seqcls" / "version_1")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "swap", [["--model.optimizer", "torch.optim.AdamW"], ["--config", "configs/overlay/adamw.yaml"]]
)
def test_swapping_the_optimizer_keeps_its_numbers(swap, capsys):
    def numbers(*arguments):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--config", CONFIG, *arguments, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["optimizer"]

    ours, swapped = numbers(), numbers(*swap)
    assert swapped["class_path"] == "torch.optim.AdamW"
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert swapped["init_args"][name] == ours["init_args"][name], name
    assert swapped["init_args"]["weight_decay"] == 0.0  # AdamW's own default is 0.01


def test_own_scheduler(tmp_path):
    experiment = build(
        [CONFIG],
        [FEW_SHOTS, *SMALL, f"--trainer.default_root_dir={tmp_path}",
         "--model.scheduler=torch.optim.lr_scheduler.ExponentialLR", "--model.scheduler.init_args.gamma=0.5"],
    )  # fmt: skip
    experiment.trainer.fit_loop.max_epochs = 1
    experiment.trainer.fit(experiment.module, datamodule=experiment.data)
    assert experiment.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 8)


def test_a_configuration_has_a_short_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config=seqcls", "--config", "overlay/adamw", "--trainer.fast_dev_run=1", *SMALL])
    with pytest.raises(SystemExit):
        main(["fit", "--config", "seqlcs"])
    assert "error: No configuration 'seqlcs': there is neither this file nor configs/seqlcs.yaml. Shipped: seqcls" in (
        capsys.readouterr().err
    )


def test_the_first_version_is_0(tmp_path):
    assert next_version(tmp_path / "none") == 0


@pytest.mark.parametrize(
    "arguments",
    [["--trainer.logger=false"], ["--trainer.enable_checkpointing=false"], ["--trainer.fast_dev_run=1"]],
)
def test_what_may_be_switched_off(tmp_path, arguments):
    small = [FEW_SHOTS, *TINY_ARGUMENTS, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"]
    for seed in (0, 1):
        run("fit", *small, f"--seed_everything={seed}", *arguments)
    if "fast_dev_run" not in arguments[0]:  # each run keeps its own folder
        assert {p.name for p in (tmp_path / "seqcls").iterdir()} == {"version_0", "version_1"}
        assert not (tmp_path / "summary.json").exists()


def test_two_runs_that_start_together_get_a_folder_each(tmp_path):
    first, second = (build([CONFIG], [f"--trainer.default_root_dir={tmp_path}", *SMALL]) for _ in range(2))
    assert first.trainer.log_dir != second.trainer.log_dir


def test_commands_set_threads():
    torch.set_num_threads(2)
    try:
        with pytest.raises(SystemExit):
            run("test", "--ckpt_path=nowhere.ckpt")
        build([CONFIG], ["--trainer.fast_dev_run=1"])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def test_doctor(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "secret-token")
    monkeypatch.setattr("lightning_qsgd.doctor.ACCOUNTS", tmp_path / "accounts.json")
    (tmp_path / "accounts.json").write_text("{}")  # what qiskit-ibm-runtime leaves when it looks for an account
    main(["doctor"])
    out = capsys.readouterr().out
    for words in ("qiskit-aer", version("torch"), "CUDA devices", "in the environment", "Self-test passed"):
        assert words in out
    assert "secret-token" not in out
