"""The best checkpoint of a run is never replaced by a worse one."""

import os
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import BestCheckpoint
from lightning_qsgd.callbacks.best_checkpoint import state_of
from lightning_qsgd.run_folder import AtomicCheckpointIO


class Scripted(L.LightningModule):
    """Validates with given scores, one for each epoch; its only weight counts steps."""

    def __init__(self, scores, other=0.5):
        super().__init__()
        self.scores, self.other = scores, other
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        return -self.weight

    def validation_step(self, batch, _):
        self.log("val/score", self.scores[self.current_epoch])
        self.log("val/other", self.other)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)

    def train_dataloader(self):
        return DataLoader(torch.zeros(2), 1)

    def val_dataloader(self):
        return DataLoader(torch.zeros(2), 1)


def run(root, scores, resume=None, other=0.5, **options):
    """Train an epoch for each score; the callback afterwards."""
    given = {"monitor": "val/score", "mode": "max", "filename": "best", "enable_version_counter": False}
    best = BestCheckpoint(**(given | {"dirpath": root / "checkpoints"} | options))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    trainer = L.Trainer(
        max_epochs=len(scores), callbacks=best, plugins=AtomicCheckpointIO(), num_sanity_val_steps=0, **quiet
    )
    trainer.fit(Scripted(scores, other), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(root / "checkpoints" / "last.ckpt")
    return best


def step(root, name="best"):
    return torch.load(root / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"]


def moved(root):
    shutil.move(root, new := root.with_name("moved"))
    return new


def linked(root):
    os.symlink(root, link := root.with_name("link"))
    return link


@pytest.mark.parametrize("place", [lambda root: root, moved, linked], ids=["same", "moved", "linked"])
@pytest.mark.parametrize("options", [{}, {"every_n_train_steps": 1, "save_on_train_epoch_end": False}])
def test_a_worse_one_does_not_replace_it(tmp_path, place, options):
    run(tmp_path / "run", [0.1, 0.9])
    root = place(tmp_path / "run")
    best = run(root, [0.1, 0.9, 0.5], root / "checkpoints" / "last.ckpt", **options)
    assert step(root) == 4
    assert float(best.best_model_score) == pytest.approx(0.9)
    assert Path(best.best_model_path).samefile(root / "checkpoints" / "best.ckpt")
    run(root, [0.1, 0.9, 0.5, 0.95], root / "checkpoints" / "last.ckpt", **options)
    assert step(root) == 8


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Path("run"), [0.9])
    run(tmp_path / "run", [0.9, 0.5], Path("run/checkpoints/last.ckpt"))
    assert step(tmp_path / "run") == 2


def test_a_file_that_is_newer_than_the_resumed_checkpoint_speaks_for_itself(tmp_path):
    run(tmp_path, [0.1])
    shutil.copy(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "first.ckpt")
    run(tmp_path, [0.1, 0.9], tmp_path / "checkpoints" / "last.ckpt")
    run(tmp_path, [0.1, 0.5], tmp_path / "first.ckpt")
    assert step(tmp_path) == 4
    assert run(tmp_path, [0.1, 0.95], tmp_path / "first.ckpt").best_model_score == pytest.approx(0.95)


def test_weights_only_files_do_not_know_their_score(tmp_path):
    run(tmp_path, [0.9], save_weights_only=True)
    shutil.copy(tmp_path / "checkpoints" / "last.ckpt", tmp_path / "first.ckpt")
    run(tmp_path, [0.9, 0.5], tmp_path / "checkpoints" / "last.ckpt", save_weights_only=True)
    assert step(tmp_path) == 2  # the run knows it
    run(tmp_path, [0.9, 0.5, 0.95], tmp_path / "checkpoints" / "last.ckpt", save_weights_only=True)
    with pytest.warns(UserWarning, match="has an unknown val/score: it gets a number"):  # it is of step 6, first of 2
        run(tmp_path, [0.9, 0.6], tmp_path / "first.ckpt", save_weights_only=True)
    assert (step(tmp_path, "best_1"), step(tmp_path)) == (6, 4)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"monitor": "val/other"}, "best_val-score"), ({"mode": "min"}, "best_max-val-score")],
)
def test_with_another_metric_the_old_best_keeps_its_own_name(tmp_path, options, name):
    run(tmp_path, [0.1, 0.9])
    with pytest.warns(UserWarning, match=rf"was val/score \(max\): that best checkpoint is {name}.ckpt now"):
        run(tmp_path, [0.1, 0.9, 0.5], tmp_path / "checkpoints" / "last.ckpt", **options)
    assert (step(tmp_path, name), step(tmp_path)) == (4, 6)


def test_the_three_best_of_a_moved_run(tmp_path):
    options = {"save_top_k": 3, "filename": "{epoch}"}
    run(tmp_path / "run", [0.5, 0.7, 0.9], **options)
    root = moved(tmp_path / "run")
    best = run(root, [0.5, 0.7, 0.9, 0.6, 0.1], root / "checkpoints" / "last.ckpt", **options)
    kept = {path.name for path in (root / "checkpoints").glob("epoch*")}
    assert kept == {"epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"}
    assert float(best.kth_value) == pytest.approx(0.6)


def test_a_new_run_sets_another_ones_file_aside(tmp_path):
    run(tmp_path, [0.1, 0.9])
    with pytest.warns(UserWarning, match=r"best.ckpt belongs to another run, and gets a number"):
        run(tmp_path, [0.2])
    assert (step(tmp_path, "best_1"), step(tmp_path)) == (4, 2)


def test_states_of_lightnings_own_callback_are_understood(tmp_path):
    state = {"monitor": "a", "best_model_path": "x/best.ckpt"}
    key = "ModelCheckpoint{'monitor': 'a', 'mode': 'min', 'every_n_train_steps': 0}"
    other = {"ModelCheckpoint{'monitor': 'b', 'mode': 'max'}": {"monitor": "b", "best_model_path": "x/epoch=1.ckpt"}}
    assert state_of({"callbacks": other | {key: state}}) == state | {"mode": "min"}
    assert state_of({}) is None


def test_between_validations_the_score_of_earlier_weights_is_not_taken(tmp_path):
    best = run(tmp_path, [0.9, 0.5, 0.1], every_n_train_steps=1, save_on_train_epoch_end=False)
    assert (step(tmp_path), float(best.best_model_score)) == (2, pytest.approx(0.9))  # of the weights that were scored


@pytest.mark.parametrize("count", [2, -1])
def test_several_checkpoints_need_several_names(tmp_path, count):
    with pytest.raises(ValueError, match=rf"Invalid checkpoint.save_top_k: {count}; all of them would.*best-.epoch"):
        run(tmp_path, [0.9], save_top_k=count)
