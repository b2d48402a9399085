"""A resumed run trains with the options that it is given now."""

import lightning as L
import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import ChangedOptions
from lightning_qsgd.cli import main
from tests.own import RUN

OWN = ["--model=tests.own.Regression", *RUN, "--checkpoint.monitor=val/mse", "--checkpoint.mode=min"]
SEQCLS = [
    "--config=seqcls", "--config=overlay/sine", "--data.train_size=64", "--data.val_size=32", "--model.num_layers=1",
    "--model.embed_dim=8", "--model.num_heads=2", "--model.feedforward_dim=8", *RUN[1:],
]  # fmt: skip


def fit(root, *arguments, base=OWN):
    main(["fit", *base, f"--trainer.default_root_dir={root}", *arguments])
    return torch.load(root / "own/version_0/checkpoints/last.ckpt", weights_only=True)


def group(checkpoint):
    return checkpoint["optimizer_states"][0]["param_groups"][0]


def rates(root):
    """The learning rate of each step, as a scheduler's run from step 0 would have it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], root["lr"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, root["total_steps"])
    for _ in range(root["steps"]):
        optimizer.step()
        scheduler.step()
    return scheduler.get_last_lr()[0]


def test_learning_rate_and_weight_decay(tmp_path, caplog):
    fit(tmp_path)
    caplog.clear()
    options = group(
        fit(tmp_path, "--ckpt_path=last", "--trainer.max_epochs=3", "--model.lr=0.01", "--model.weight_decay=0.2")
    )
    assert (options["lr"], options["weight_decay"]) == (0.01, 0.2)
    assert "Changed from step 6 on: lr 0.05 -> 0.01, weight_decay 0.0 -> 0.2" in caplog.text
    caplog.clear()
    fit(tmp_path, "--ckpt_path=last", "--trainer.max_epochs=4", "--model.lr=0.01", "--model.weight_decay=0.2")
    assert "Changed" not in caplog.text


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"total_steps": 24}, {"lr": 0.02, "total_steps": 24}])
def test_a_schedule_is_computed_anew_from_step_0(tmp_path, change):
    first = {"lr": 0.05, "total_steps": 12}
    fit(tmp_path, *(f"--model.{name}={value}" for name, value in first.items()))
    then = first | change
    arguments = [f"--model.{name}={value}" for name, value in then.items()]
    options = group(fit(tmp_path, "--ckpt_path=last", "--trainer.max_epochs=3", *arguments))
    assert options["lr"] == pytest.approx(rates(then | {"steps": 9}), rel=1e-9)
    assert options["initial_lr"] == then["lr"]


def test_what_did_not_change_is_bit_for_bit_the_same(tmp_path):
    schedule = ["--model.total_steps=12"]
    straight = fit(tmp_path / "straight", *schedule, "--trainer.max_epochs=3")
    fit(tmp_path / "parts", *schedule)
    resumed = fit(tmp_path / "parts", *schedule, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert group(straight) == group(resumed)
    assert all(
        torch.equal(straight["state_dict"][name], resumed["state_dict"][name]) for name in straight["state_dict"]
    )


def test_a_plateau_keeps_its_history(tmp_path):
    scheduler = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"]
    scheduler += ["--model.scheduler.patience=0", "--model.scheduler.threshold=0.99", "--model.scheduler.factor=0.5"]
    assert group(fit(tmp_path, *scheduler, base=SEQCLS))["lr"] == 0.0005  # one epoch was no better than the first
    more = ["--ckpt_path=last", "--trainer.max_epochs=3", "--model.scheduler.factor=0.1"]
    options = group(fit(tmp_path, *scheduler, *more, "--model.optimizer.lr=0.01", base=SEQCLS))
    assert options["lr"] == pytest.approx(0.0005 * 10 * 0.1)


def test_the_perturbations_weight(tmp_path):
    fit(tmp_path, base=SEQCLS)
    more = ["--ckpt_path=last", "--trainer.max_epochs=3", "--model.optimizer.quantum_weight"]
    checkpoint = fit(tmp_path, *more, "0.1", "--model.optimizer.betas=[0.8, 0.99]", base=SEQCLS)
    assert (group(checkpoint)["quantum_weight"], tuple(group(checkpoint)["betas"])) == (0.1, (0.8, 0.99))


def test_averaged_weights_stay_beside_the_raw_ones(tmp_path):
    average = ["--config=overlay/ema"]
    straight = fit(tmp_path / "straight", *average, "--trainer.max_epochs=3", base=SEQCLS)
    first = fit(tmp_path / "parts", *average, base=SEQCLS)
    resumed = fit(tmp_path / "parts", *average, "--trainer.max_epochs=3", "--ckpt_path=last", base=SEQCLS)
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(straight[key][name], resumed[key][name]) for name in straight[key]), key
    assert any(not torch.equal(first["state_dict"][n], first["current_model_state"][n]) for n in first["state_dict"])


class Scheduled(L.LightningModule):
    """Three steps an epoch; ``make`` makes its optimizer and schedulers."""

    def __init__(self, make, **options):
        super().__init__()
        self.weight, self.make, self.options = torch.nn.Parameter(torch.ones(2)), make, options
        self.rates = []

    def training_step(self, batch, batch_idx):
        self.rates.append((self.optimizers().param_groups[0]["lr"], self.optimizers().param_groups[0].get("betas")))
        return self.weight.square().sum()

    def configure_optimizers(self):
        return self.make([self.weight], **self.options)

    def train_dataloader(self):
        return DataLoader(torch.zeros(3), batch_size=1)


def train(root, epochs, make, resume=None, **options):
    """(learning rate, betas) of each step."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    trainer = L.Trainer(max_epochs=epochs, callbacks=ChangedOptions(), enable_checkpointing=False, **quiet)
    module = Scheduled(make, **options)
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(root / f"{epochs}.ckpt")
    return module.rates


def by_step(*schedulers):
    return [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]


def cosine(params, lr=0.1, beta=0.9, steps=9):
    optimizer = torch.optim.Adam(params, lr, betas=(beta, 0.99))
    return [optimizer], by_step(lr_scheduler.CosineAnnealingLR(optimizer, steps))


def constant(params, lr=0.1):
    return torch.optim.Adam(params, lr)


def two(params, lr=0.1):
    optimizer = torch.optim.Adam(params, lr)
    return [optimizer], by_step(lr_scheduler.LinearLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.9))


def chained(params, lr=0.1, gamma=0.9):
    optimizer = torch.optim.Adam(params, lr)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, gamma)]
    return [optimizer], by_step(lr_scheduler.ChainedScheduler(parts, optimizer))


def warmed(params, lr=0.1, steps=6):
    optimizer = torch.optim.Adam(params, lr)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, steps)]
    return [optimizer], by_step(lr_scheduler.SequentialLR(optimizer, parts, [3]))


def one_cycle(params, lr=0.1, steps=12):
    optimizer = torch.optim.Adam(params, 0.01)
    return [optimizer], by_step(lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps))


class Shrinking(lr_scheduler.LRScheduler):
    """Has a state that no step moves."""

    factor = 1.0

    def get_lr(self):
        self.factor = self.factor * 0.5 if self.last_epoch == 2 else self.factor
        return [base * self.factor for base in self.base_lrs]


def shrinking(params, lr=0.1):
    optimizer = torch.optim.Adam(params, lr)
    return [optimizer], by_step(Shrinking(optimizer))


def by_epoch(params, lr=0.1):
    optimizer = torch.optim.Adam(params, lr)
    return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.5)]


def sgd(params):
    return torch.optim.SGD(params, 0.1, momentum=0.9)


MAKERS = [cosine, constant, two, chained, warmed, one_cycle, shrinking, by_epoch]


@pytest.mark.parametrize("make", MAKERS)
def test_all_schedules_go_on_as_if_they_had_not_stopped(tmp_path, make, caplog):
    straight = train(tmp_path, 3, make)
    train(tmp_path, 2, make)
    caplog.clear()
    assert train(tmp_path, 3, make, tmp_path / "2.ckpt") == straight[6:]
    assert "Changed" not in caplog.text


CHANGES = [
    (cosine, cosine, {"lr": 0.3}), (cosine, cosine, {"beta": 0.5}), (two, two, {"lr": 0.05}),
    (chained, chained, {"lr": 0.05}), (chained, chained, {"gamma": 0.5}), (warmed, warmed, {"steps": 12}),
    (one_cycle, one_cycle, {"lr": 0.2}), (one_cycle, one_cycle, {"steps": 24}), (by_epoch, by_epoch, {"lr": 0.3}),
    (by_epoch, cosine, {}), (by_epoch, constant, {}), (constant, cosine, {}), (cosine, by_epoch, {"lr": 0.2}),
]  # fmt: skip


@pytest.mark.parametrize(("first", "then", "change"), CHANGES)
def test_changed_schedules_are_those_of_a_run_that_had_them_from_the_start(tmp_path, first, then, change, caplog):
    expected = [rate for rate, _ in train(tmp_path, 3, then, **change)][6:]
    train(tmp_path, 2, first)
    found = train(tmp_path, 3, then, tmp_path / "2.ckpt", **change)
    assert [rate for rate, _ in found] == pytest.approx(expected, rel=1e-9)
    assert "Changed from step 6 on" in caplog.text
    if "beta" in change:
        assert {betas for _, betas in found} == {(0.5, 0.99)}
    caplog.clear()
    train(tmp_path, 4, then, tmp_path / "3.ckpt", **change)
    assert "Changed" not in caplog.text


def test_another_class_of_optimizer_is_refused(tmp_path):
    train(tmp_path, 2, constant)
    with pytest.raises(ValueError, match=r"The run used Adam, and now there is SGD: resume with the same optimizer"):
        train(tmp_path, 3, sgd, tmp_path / "2.ckpt")
