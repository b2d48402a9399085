"""Losses and gradients that are not finite: what stops, what is skipped, and that nothing of it is applied or saved."""

import csv
import json
import math
import os
import subprocess
import sys

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn import functional as F

from lightning_qsgd.callbacks import DisplacedForward, FiniteSteps
from lightning_qsgd.cli import main
from lightning_qsgd.optim import MeasuredDisplacement, SuperpositionalGradientDescent
from tests.common import FEW_SHOTS, SMALL
from tests.optim.common import own_state
from tests.runs import commands_on_two_ranks

BATCHES = 8
NAN, INF = math.nan, math.inf


class Model(L.LightningModule):
    """A linear model; some batches are bad, or left out."""

    def __init__(self, bad=(), value=NAN, left_out=(), **optimizer):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.register_buffer("mask", torch.tensor([-INF]))  # a buffer may hold infinities
        self.bad, self.value, self.left_out, self.optimizer = bad, value, left_out, optimizer

    def training_step(self, batch, batch_idx):
        x, number = batch[0], int(batch[1][0])
        loss = F.mse_loss(self.layer(x), x[:, :2].flip(1))
        if number not in self.bad:
            return loss
        return loss + (self.layer.bias[1] * 0).sqrt() if self.value == "gradient" else loss * self.value

    def train_dataloader(self):
        data = torch.randn(4 * BATCHES, 3, generator=torch.Generator().manual_seed(1))
        numbers = torch.arange(BATCHES).repeat_interleave(4)
        kept = torch.tensor([number not in self.left_out for number in numbers.tolist()])
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data[kept], numbers[kept]), batch_size=4)

    def configure_optimizers(self):
        return SuperpositionalGradientDescent(self.parameters(), lr=0.05, **self.optimizer)


def fit(module, callback, folder, **options):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback, DisplacedForward(), *options.pop("callbacks", [])],
        **{"logger": False, "enable_checkpointing": False} | options,
    )  # fmt: skip
    trainer.fit(module)
    return trainer


def state(trainer):
    """All that a step changes."""
    (optimizer,) = trainer.optimizers
    own = optimizer.state_dict()
    return dict(trainer.lightning_module.state_dict()), own["state"], steps(trainer)


def steps(trainer):
    return own_state(trainer.optimizers[0].state_dict())["step"]


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("value", "words"),
    [(NAN, "The loss is nan"), (INF, "The loss is inf"), ("gradient", "The gradient of layer.bias is not finite")],
)
def test_a_bad_step_stops_the_run_before_anything_of_it_is_applied(tmp_path, value, words):
    stopped, last = Model(bad=[5], value=value), ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1)
    where = r" in epoch 1, batch 6 \(step 5\); nothing of this step was applied. Try a lower learning rate"
    with pytest.raises(FloatingPointError, match=words + where):
        fit(stopped, FiniteSteps(), tmp_path, callbacks=[last], enable_checkpointing=True)
    before = fit(Model(left_out=[5, 6, 7]), FiniteSteps(), tmp_path)
    assert_same(state(stopped.trainer), state(before))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert_same(dict(saved["state_dict"]), dict(before.lightning_module.state_dict()))


@pytest.mark.parametrize("value", [NAN, INF, "gradient"])
@pytest.mark.parametrize("displaced", [False, True])
def test_a_skipped_step_leaves_no_trace(tmp_path, value, displaced):
    def options():
        return {"displacement": MeasuredDisplacement(0.2, source="sign") if displaced else None}

    callback = FiniteSteps("skip")
    with pytest.warns(UserWarning, match=r"in epoch 1, batch 3 \(step 2\): this step is skipped") as caught:
        skipped = fit(Model([2, 3, 7], value, **options()), callback, tmp_path, gradient_clip_val=1.0)
    assert len([w for w in caught if "skipped" in str(w.message)]) == 1
    without = fit(Model(left_out=[2, 3, 7], **options()), FiniteSteps(), tmp_path, gradient_clip_val=1.0)
    assert_same(state(skipped), state(without))
    assert steps(skipped) == BATCHES - 3
    assert callback.skipped == 3


def test_a_bad_batch_drops_its_whole_window(tmp_path):
    with pytest.warns(UserWarning, match="The loss of batch 4 is nan in epoch 1, batch 4"):
        skipped = fit(Model([3]), FiniteSteps("skip"), tmp_path, accumulate_grad_batches=2)
    without = fit(Model(left_out=[2, 3]), FiniteSteps(), tmp_path, accumulate_grad_batches=2)
    assert_same(state(skipped), state(without))


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"batch 6 \(step 5\), after 3 skipped steps in a row"):
        fit(Model([2, 3, 4, 5]), FiniteSteps("skip", max_in_a_row=3), tmp_path)
    callback = FiniteSteps("skip", max_in_a_row=3)
    fit(Model([0, 1, 2, 4, 5, 6]), callback, tmp_path)
    assert callback.skipped == 6


def test_skipped_steps_are_logged_where_they_happen(tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    fit(Model([2, 5]), FiniteSteps("skip"), tmp_path, logger=logger)
    assert [(m["step"], m["train/skipped"]) for m in rows(tmp_path / "metrics.csv")] == [("2", "1"), ("5", "2")]


def rows(path):
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row.get("train/skipped")]


class GradientOf(L.Callback):
    """Makes the unscaled gradients of one batch infinite, as half precision does."""

    def __init__(self, batch):
        self.batch = batch

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.batch:
            pl_module.layer.weight.grad.fill_(INF)


def scaled(**options):
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))]} | options


def test_under_a_grad_scaler_gradients_are_its_business(tmp_path):
    callback = FiniteSteps()
    trainer = fit(Model(), callback, tmp_path, **scaled(callbacks=[GradientOf(3)]))
    assert steps(trainer) == BATCHES - 1


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_under_a_grad_scaler_a_bad_loss_is_found(tmp_path, mode):
    if mode == "stop":
        with pytest.raises(FloatingPointError, match="The loss is nan in epoch 1, batch 4"):
            fit(Model([3]), FiniteSteps(), tmp_path, **scaled())
        return
    callback = FiniteSteps("skip")
    trainer = fit(Model([3]), callback, tmp_path, **scaled())
    assert (callback.skipped, steps(trainer)) == (1, BATCHES - 1)
    assert all(p.isfinite().all() for p in trainer.lightning_module.parameters())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    every_step = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    with pytest.raises(
        FloatingPointError, match=r"The weights layer.weight are not finite .* last checkpoint is unchanged"
    ):
        fit(
            Model([5]), FiniteSteps(every_n_steps=100), tmp_path, callbacks=[every_step], enable_checkpointing=True
        )  # fmt: skip
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert all(value.isfinite().all() for name, value in saved["state_dict"].items() if name != "mask")


def test_looking_less_often_finds_it_later(tmp_path):
    with pytest.raises(FloatingPointError, match=r"batch 7 \(step 6\)"):
        fit(Model([4]), FiniteSteps(every_n_steps=3), tmp_path)


def test_sparse_gradients_and_those_of_empty_tensors_are_looked_at(tmp_path):
    class Sparse(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.table, self.empty = torch.nn.Embedding(4, 2, sparse=True), torch.nn.Parameter(torch.zeros(0))

        def training_step(self, batch, batch_idx):
            loss = (self.table(torch.tensor([1, 1])).sum() * (0.0 if batch_idx < 2 else 1.0)).sqrt()
            return loss if batch_idx == 2 else self.table(torch.tensor([0])).sum() + self.empty.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.arange(4), batch_size=1)

    module = Sparse()
    with torch.no_grad():
        module.table.weight[1] = 0
    with pytest.raises(FloatingPointError, match=r"gradient of table.weight is not finite in epoch 1, batch 3"):
        fit(module, FiniteSteps(), tmp_path)


def test_huge_gradients_are_finite(tmp_path):
    fit(Model([2, 3], 1e30, quantum_weight=0.0), FiniteSteps(), tmp_path)  # the sum of their squares is not


@pytest.mark.parametrize(
    "options",
    [{"on_nonfinite": "no"}, {"max_in_a_row": 0}, {"every_n_steps": 0}, {"on_nonfinite": "skip", "every_n_steps": 2}],
)
def test_invalid_options(options):
    with pytest.raises(ValueError, match="Invalid "):
        FiniteSteps(**options)


def test_state_survives_a_resume():
    before, after = FiniteSteps("skip"), FiniteSteps("skip")
    before.skipped, before._in_a_row = 5, 2
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()


class BadLoss(L.Callback):
    """Makes the loss of the second batch NaN on the last rank alone, and leaves its gradient finite."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 1 and trainer.global_rank == trainer.world_size - 1:
            loss.data.fill_(NAN)


BAD_LOSS = "--trainer.callbacks=tests.callbacks.test_finite_steps.BadLoss"


def test_the_command_line_names_place_and_ways_out_and_exits_with_2(capsys, tmp_path):
    # Callbacks of the command line come before those of --trainer.callbacks, whose loss is thus read in time.
    with pytest.raises(SystemExit, match="2"):
        main(
            [
                "fit",
                "--config",
                "configs/seqcls.yaml",
                FEW_SHOTS,
                *SMALL,
                f"--trainer.default_root_dir={tmp_path}",
                BAD_LOSS,
            ]
        )
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: The loss is nan in epoch 1, batch 2 (step 1); nothing of this step was applied.")
    for way_out in ("lower learning rate", "gradient_clip_val", "debug.yaml", "--finite.on_nonfinite=skip"):
        assert way_out in last


def on_two_ranks(folder, mode):
    return [
        "fit", "--config", "configs/seqcls.yaml", FEW_SHOTS, *SMALL, "--config", "configs/overlay/ddp2.yaml",
        f"--trainer.default_root_dir={folder}", "--trainer.max_epochs=1", f"--finite.on_nonfinite={mode}", BAD_LOSS,
        "--trainer.callbacks+=tests.ranks.SaveRanks",
    ]  # fmt: skip


@pytest.mark.slow
def test_ranks_stop_together_at_the_loss_of_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lightning_qsgd", *on_two_ranks(tmp_path, "stop")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: A loss or gradient of another rank is not finite in epoch 1, batch 2" in done.stderr


@pytest.mark.slow
def test_ranks_skip_the_loss_of_one_together(tmp_path):
    commands_on_two_ranks(on_two_ranks(tmp_path, "skip"))
    folder = tmp_path / "seqcls" / "version_0"
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True)["weights"] for rank in (0, 1))
    assert_same(first, second)
    assert json.loads((folder / "summary.json").read_text())["skipped_steps"] == 1
