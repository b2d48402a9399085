"""A resumed run trains with the options that it is given now."""

import pytest
import torch

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
