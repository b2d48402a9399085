"""A run as a value, used in one process as in a notebook."""

import csv
import json
import signal
import subprocess
import sys

import lightning as L
import pytest
import torch
import yaml

import lightning_qsgd
from lightning_qsgd import Experiment, build, fit
from tests.common import TINY

OVERRIDES = {f"model.{name}": value for name, value in TINY.items()} | {
    "data.train_size": 96,
    "data.val_size": 32,
    "data.test_size": 32,
    "trainer.max_epochs": 1,
    "trainer.accelerator": "cpu",
}


@pytest.fixture
def small(tmp_path):
    return OVERRIDES | {"trainer.default_root_dir": str(tmp_path)}


CONFIG = ["seqcls", "overlay/sine"]


def test_the_package_stays_light():
    code = "import sys, lightning_qsgd; assert not {'torch', 'lightning', 'qiskit'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"Experiment", "build", "fit"} <= set(dir(lightning_qsgd))  # and they are imported above
    with pytest.raises(ImportError):
        exec("from lightning_qsgd import nothing_of_this_name")


def test_a_fit_shows_its_progress_and_returns_its_results(small, tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)
    result = fit(CONFIG, small)
    assert "Epoch 0" in capsys.readouterr().out
    assert result.folder == tmp_path / "seqcls" / "version_0"
    assert result.best_checkpoint == result.folder / "checkpoints" / "best.ckpt"
    saved = torch.load(result.best_checkpoint, weights_only=True)
    assert saved["global_step"] == 3
    assert saved["callbacks"]["ModelCheckpoint.best"]["best_model_score"] == result.metrics["val/accuracy"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_dicts_nested_or_dotted_are_layers_as_files_are(tmp_path):
    (tmp_path / "own.yaml").write_text("trainer: {max_epochs: 3}\nmodel: {init_args: {embed_dim: 16}}")
    dicts = {"trainer.max_epochs": 3, "model": {"init_args": {"embed_dim": 16}}}
    expected = Experiment(["seqcls", tmp_path / "own.yaml"]).settings
    before = torch.get_rng_state()
    assert Experiment(["seqcls", dicts]).settings == expected
    assert Experiment("seqcls", {"trainer.max_epochs": 3, "model.embed_dim": 16}).settings == expected
    assert Experiment("seqcls", ["--trainer.max_epochs=3", "--model.embed_dim=16"]).settings == expected
    assert Experiment(expected).settings == expected
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn, or seeded
    assert Experiment({"experiment": "1e3"} | expected | {"experiment": "1e3"}).settings["experiment"] == "1e3"


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("seqcls", {"trainer.max_epohcs": 1}, "unrecognized.*close: trainer.max_epochs"),
        ({"trainer": {"max_epohcs": 1}}, {}, "No option 'trainer.max_epohcs'; close: trainer.max_epochs"),
        ("seqcls", {"trainer.max_epochs": "many"}, "trainer.max_epochs: .*many"),
        ("seqcls", {"threads": 0}, "Invalid threads: 0"),
        ("seqcls", {"ckpt_path": "last", "weights_from": "x.ckpt"}, "Invalid weights_from: with --ckpt_path"),
    ],
)
def test_an_invalid_setting_is_a_value_error(config, overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(config, overrides | {"trainer.default_root_dir": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="No configuration 'seqlcs'"):
        Experiment("seqlcs")


def test_it_tests_its_own_best_checkpoint(small, tmp_path):
    with pytest.raises(ValueError, match="test needs a trained model"):
        Experiment(CONFIG, small).test()
    experiment = Experiment(CONFIG, small)
    trained = experiment.fit()
    newer = Experiment(CONFIG, small | {"seed_everything": 5}).fit()
    assert newer.folder.name == "version_1"
    tested = experiment.test()
    assert tested.folder == trained.folder
    saved = json.loads((trained.folder / "test.json").read_text())
    assert saved["checkpoint"] == str(trained.best_checkpoint)
    assert tested.metrics["test/accuracy"] == saved["test/accuracy"]
    assert not (newer.folder / "test.json").exists()
    assert experiment.validate(trained.folder / "checkpoints" / "last.ckpt", save=False).metrics["val/loss"] > 0
    assert not (trained.folder / "validate.json").exists()
    predicted = experiment.predict(newer.best_checkpoint)
    assert predicted.predictions == newer.folder / "predictions.csv"
    assert predicted.predictions.is_file()


def test_a_run_is_resumed_in_its_folder(small, tmp_path):
    straight = fit(CONFIG, small | {"trainer.max_epochs": 2, "experiment": "straight"})
    first = fit(CONFIG, small)
    resumed = Experiment(CONFIG, small | {"trainer.max_epochs": 2}).fit(ckpt_path="last")
    assert resumed.folder == first.folder
    without = [{k: v for k, v in r.metrics.items() if "seconds" not in k} for r in (straight, resumed)]
    assert without[0] == without[1]
    with pytest.raises(ValueError, match="has finished its 2 epochs"):
        Experiment(CONFIG, small | {"trainer.max_epochs": 2}).fit(ckpt_path="last")
    started = Experiment(CONFIG, small | {"trainer.max_epochs": 0}, folder=tmp_path / "here")
    assert started.fit(weights_from=first.best_checkpoint).folder == tmp_path / "here"
    saved = torch.load(first.best_checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in started.module.state_dict().items())


def test_what_is_built_is_what_is_trained(small, tmp_path):
    experiment = build(CONFIG, small)
    trainer, module, data = experiment
    assert (trainer, module, data) == (experiment.trainer, experiment.module, experiment.data)
    with pytest.raises(ValueError, match=r"Invalid ckpt_path: .* built already.*build\('fit', ckpt_path=\.\.\.\)"):
        experiment.fit(ckpt_path="last")
    experiment.fit()
    assert trainer.global_step == 3
    assert experiment.module is module
    assert experiment.fit().folder.name == "version_1"  # a new run
    assert experiment.trainer is not trainer
    experiment.build().build()
    assert sorted(path.name for path in (tmp_path / "seqcls").iterdir()) == ["version_0", "version_1", "version_2"]


def test_a_start_that_fails_leaves_no_folder(small, tmp_path):
    experiment = build(CONFIG, small)
    experiment.module.training_step = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        experiment.fit()
    assert not list((tmp_path / "seqcls").iterdir())


class Interrupts(L.Callback):
    def on_train_batch_end(self, *_):
        raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_the_process_as_it_was(small):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Experiment(CONFIG, small, callbacks=[Interrupts()]).fit()
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_configuration_of_a_run_is_an_experiment(small):
    result = fit(CONFIG, small)
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    again = Experiment(result.folder / "config.yaml").settings
    assert again["model"]["init_args"]["embed_dim"] == config["model"]["init_args"]["embed_dim"] == 8


def test_the_first_validation_after_a_checkpoint_within_an_epoch_has_its_own_rows_alone(small):
    """best.ckpt is saved during a validation, whose sums belong to no later one."""
    within = small | {"data.train_size": 160, "trainer.val_check_interval": 3, "trainer.max_epochs": 2}
    straight = fit(CONFIG, within | {"experiment": "straight"})
    fit(CONFIG, within | {"trainer.max_epochs": 1})
    resumed = fit(CONFIG, within, ckpt_path="best")
    rows = [
        [
            {k: v for k, v in row.items() if v and "seconds" not in k and "memory" not in k}
            for row in csv.DictReader(file)
        ]
        for file in ((r.folder / "metrics.csv").open() for r in (straight, resumed))
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[1] if "val/loss" in row] == ["2", "7"]


def test_a_checkpoint_that_nobody_read_never_becomes_previous(small, tmp_path):
    checkpoints = tmp_path / "here" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").write_bytes(b"of another run, or cut off")
    every = {"exact_resume.every_n_steps": 2}
    Experiment(CONFIG, small | every, folder=tmp_path / "here").fit()
    steps = {
        name: torch.load(checkpoints / f"{name}.ckpt", weights_only=True)["global_step"]
        for name in ("last", "previous")
    }
    assert steps == {"last": 3, "previous": 2}
    (checkpoints / "previous.ckpt").unlink()
    (checkpoints / "last.ckpt").write_bytes(b"cut off")
    Experiment(CONFIG, small, folder=tmp_path / "here").fit()
    assert not (checkpoints / "previous.ckpt").exists()
