import copy
import csv
import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn import functional as F

from lightning_qsgd.callbacks import DisplacedForward
from lightning_qsgd.cli import main
from lightning_qsgd.experiment import build
from lightning_qsgd.optim import LinearSchedule, MeasuredDisplacement, SuperpositionalGradientDescent
from tests.common import FEW_SHOTS, SMALL
from tests.runs import commands_on_two_ranks

BATCHES, ACCUMULATE = 7, 3  # the last window is short


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Model(L.LightningModule):
    """A linear model that remembers the weights it was asked at."""

    def __init__(self, displacement, fails_at=None, skips=()):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.displacement, self.fails_at, self.skips = displacement, fails_at, skips
        self.seen, self.stepped = [], []  # weights in the forward passes, and before each optimizer step
        self.losses = []  # of validation

    def training_step(self, batch, batch_idx):
        self.seen.append(flat(self))
        if batch_idx == self.fails_at:
            raise KeyboardInterrupt if batch_idx == 1 else RuntimeError("on purpose")
        return None if batch_idx in self.skips else self.loss(batch)

    def loss(self, batch):
        x = batch[0]
        return F.mse_loss(self.layer(x), x[:, :2].flip(1))

    def validation_step(self, batch, batch_idx):
        self.losses.append((flat(self), self.loss(batch).item()))

    def on_before_optimizer_step(self, optimizer):
        self.stepped.append(flat(self))

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        data = torch.randn(4 * BATCHES, 3, generator=generator)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=4)

    val_dataloader = train_dataloader

    def configure_optimizers(self):
        return SuperpositionalGradientDescent(
            self.parameters(), lr=0.05, quantum_weight=0.0, displacement=self.displacement
        )


def sign(radius=0.2, **options):
    return MeasuredDisplacement(radius, source="sign", **options)


def fit(module, tmp_path, *callbacks, **options):
    options = {"max_epochs": 2, "limit_val_batches": 0, "enable_checkpointing": False, "logger": False} | options
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, DisplacedForward()],
        **options,
    )
    trainer.fit(module)
    return trainer


def by_hand(displacement, epochs=2, clip=None, accumulate=ACCUMULATE):
    """The same training in plain PyTorch."""
    module = Model(displacement)
    optimizer = module.configure_optimizers()
    for _ in range(epochs):
        for i, batch in enumerate(module.train_dataloader()):
            if i % accumulate == 0:
                optimizer.zero_grad()
            with optimizer.displaced(draw=i % accumulate):
                (module.loss(batch) / accumulate).backward()
            if i % accumulate == accumulate - 1 or i == BATCHES - 1:
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
    return flat(module)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("accumulate", [1, ACCUMULATE])
@pytest.mark.parametrize("source", ["circuit", "sign", "gaussian"])
def test_it_is_the_plain_loop(tmp_path, source, accumulate, clip):
    module = Model(MeasuredDisplacement(0.2, source=source))
    fit(module, tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    torch.testing.assert_close(flat(module), by_hand(MeasuredDisplacement(0.2, source=source), 2, clip, accumulate))


def scaled():
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))]}


@pytest.mark.parametrize("accumulate", [1, ACCUMULATE])
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"precision": "bf16-mixed"}, 0.03), ({"precision": "bf16-true"}, 0.05), ("scaled", 0.03)],
    ids=["bf16-mixed", "bf16-true", "16-mixed"],
)
def test_each_precision_trains_at_displaced_and_steps_from_exact_weights(tmp_path, options, tolerance, accumulate):
    module = Model(sign())
    fit(module, tmp_path, accumulate_grad_batches=accumulate, **(scaled() if options == "scaled" else options))
    steps = 2 * -(-BATCHES // accumulate)
    assert len(module.stepped) == steps
    weights, exact = iter(module.stepped), None
    for i, seen in enumerate(module.seen):
        if i % BATCHES % accumulate == 0:
            exact = next(weights)
        assert 0.1 < float((seen - exact).float().norm() / exact.float().norm()) < 0.3
    torch.testing.assert_close(flat(module).float(), by_hand(sign(), accumulate=accumulate), atol=tolerance, rtol=0.1)


def test_micro_batches_and_steps_have_draws_of_their_own_and_runs_repeat(tmp_path):
    first, second = Model(sign()), Model(sign())
    for module in (first, second):
        fit(module, tmp_path, accumulate_grad_batches=ACCUMULATE, max_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(first.seen, second.seen))
    moves = {tuple((seen - first.stepped[i // ACCUMULATE]).sign().tolist()) for i, seen in enumerate(first.seen)}
    assert len(moves) == BATCHES


def test_antithetic_pairs_share_a_window(tmp_path):
    module = Model(sign(bias="antithetic"))
    fit(module, tmp_path, accumulate_grad_batches=2, max_epochs=1)
    for step, exact in enumerate(module.stepped[:3]):
        torch.testing.assert_close((module.seen[2 * step] + module.seen[2 * step + 1]) / 2, exact)


def test_validation_sees_the_exact_weights(tmp_path):
    module = Model(sign())
    fit(module, tmp_path, max_epochs=1, limit_val_batches=1.0, val_check_interval=3, num_sanity_val_steps=0)
    assert len(module.losses) == 2 * BATCHES
    for i, (weights, loss) in enumerate(module.losses):
        assert torch.equal(weights, module.stepped[3 * (1 + i // BATCHES)])
        other = Model(sign())
        torch.nn.utils.vector_to_parameters(weights, other.parameters())
        assert other.loss(list(other.train_dataloader())[i % BATCHES]).item() == loss


@pytest.mark.parametrize(
    ("fails_at", "error"), [(1, SystemExit), (4, RuntimeError)], ids=["KeyboardInterrupt", "RuntimeError"]
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_error_in_the_middle_leaves_the_exact_weights(tmp_path, fails_at, error, accumulate):
    module = Model(sign(), fails_at=fails_at)
    with pytest.raises(error):
        fit(module, tmp_path, accumulate_grad_batches=accumulate)
    straight = Model(sign())
    fit(straight, tmp_path, accumulate_grad_batches=accumulate, max_epochs=1)
    assert torch.equal(flat(module), straight.stepped[fails_at // accumulate])
    assert torch.equal(module.seen[-1], straight.seen[fails_at])


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, "scaled"], ids=["1", "2", "16-mixed"])
def test_a_batch_without_loss_leaves_the_exact_weights(tmp_path, options):
    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            ends.append(pl_module.displacement.active)

        def on_train_epoch_end(self, trainer, pl_module):
            ends.append(pl_module.displacement.active)

    ends = []
    module = Model(sign(), skips=(0, 3))
    module.displacement.prepare()
    fit(module, tmp_path, Watch(), **(scaled() if options == "scaled" else options))
    assert not module.displacement.active
    assert len(module.seen) == 2 * BATCHES
    assert ends[BATCHES] is ends[-1] is False


class SaveInTheMiddle(L.Callback):
    """Saves before the forward pass of the third batch, when the weights are displaced."""

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2:
            before = flat(pl_module)
            trainer.save_checkpoint(trainer.default_root_dir + "/middle.ckpt")
            assert torch.equal(flat(pl_module), before)


@pytest.mark.parametrize("averaging", [False, True])
def test_a_checkpoint_in_the_middle_of_a_batch_holds_the_exact_weights(tmp_path, averaging):
    module = Model(sign())
    average = [EMAWeightAveraging(decay=0.5)] if averaging else []
    fit(module, tmp_path, *average, SaveInTheMiddle(), max_epochs=1)
    checkpoint = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    state = checkpoint["current_model_state"] if averaging else checkpoint["state_dict"]
    assert torch.equal(torch.cat([value.flatten() for value in state.values()]), module.stepped[2])


def test_averaged_weights_average_the_exact_ones(tmp_path):
    module = Model(sign())
    fit(module, tmp_path, EMAWeightAveraging(decay=0.5), max_epochs=1)
    straight = Model(sign())
    fit(straight, tmp_path, max_epochs=1)
    weights = [*straight.stepped[1:], flat(straight)]  # after each step
    average = weights[0]
    for w in weights[1:]:
        average = 0.5 * average + 0.5 * w
    torch.testing.assert_close(flat(module), average)


def test_a_zero_radius_changes_nothing(tmp_path):
    zero, none = Model(sign(LinearSchedule(0.0, 0.0, 1))), Model(None)
    for module in (zero, none):
        fit(module, tmp_path, accumulate_grad_batches=2)
    assert torch.equal(flat(zero), flat(none))
    assert all(torch.equal(a, b) for a, b in zip(zero.seen, none.seen))


def test_other_optimizers_are_left_alone(tmp_path):
    class Plain(Model):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Plain(None)
    fit(module, tmp_path, max_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(module.seen, module.stepped))


@pytest.mark.parametrize(
    ("displacement", "options", "message"),
    [
        (sign(copies=2), {}, r"Invalid copies: 2;.*--trainer\.accumulate_grad_batches=2"),
        (sign(bias="antithetic"), {}, "Invalid accumulate_grad_batches: 1; it must be even"),
        (sign(bias="antithetic"), {"accumulate_grad_batches": 3}, "Invalid accumulate_grad_batches: 3"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, displacement, options, message):
    with pytest.raises(ValueError, match=message):
        fit(Model(displacement), tmp_path, **options)


def test_a_scheduled_accumulation_is_looked_at_in_each_epoch(tmp_path):
    with pytest.raises(ValueError, match="Invalid accumulate_grad_batches: 3"):
        fit(Model(sign(bias="antithetic")), tmp_path, GradientAccumulationScheduler({0: 2, 1: 3}))


class Manual(Model):
    def __init__(self, displacement, displaces):
        super().__init__(displacement)
        self.automatic_optimization, self.displaces = False, displaces

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        if self.displaces:
            with optimizer.displaced():
                self.seen.append(flat(self))
                self.manual_backward(self.loss(batch))
                self.manual_backward(self.loss(batch) * 0)
        else:
            self.manual_backward(self.loss(batch))
        optimizer.step()


def test_manual_optimization_displaces_in_its_own_block(tmp_path):
    module = Manual(sign(), displaces=True)
    fit(module, tmp_path)
    torch.testing.assert_close(flat(module), by_hand(sign(), accumulate=1))
    with pytest.raises(RuntimeError, match=r"optimizer\.displaced\(\)"):
        fit(Manual(sign(), displaces=False), tmp_path)


# ---- by command

FAST = ["--config=configs/seqcls.yaml", FEW_SHOTS, "--config=configs/overlay/displaced.yaml", *SMALL]


def weights_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_resumed_run_continues_with_the_same_draws(tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for root, *arguments in (
        (straight, "--trainer.max_epochs=3"),
        (resumed, "--trainer.max_epochs=1"),
        (resumed, "--trainer.max_epochs=3", "--ckpt_path=last"),
    ):
        main(["fit", *FAST, f"--trainer.default_root_dir={root}", *arguments])
    folders = [root / "seqcls" / "version_0" for root in (straight, resumed)]
    first, second = map(weights_of, folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["circuits"] == 3  # the displacement's, once


def test_another_displacement_is_refused_at_a_resume(tmp_path, capsys):
    main(["fit", *FAST, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"])
    with pytest.raises(SystemExit):
        main(
            ["fit", *FAST, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=2", "--ckpt_path=last",
             "--model.optimizer.init_args.displacement.init_args.source=sign"]
        )  # fmt: skip
    assert "source=circuit" in capsys.readouterr().err.splitlines()[-1]


def test_radius_zero_is_the_run_without_displacement(tmp_path):
    weights = []
    for name, arguments in (
        ("zero", [*FAST, "--model.optimizer.init_args.displacement.init_args.radius=0"]),
        ("none", [*FAST[:2], *SMALL, "--model.optimizer.init_args.quantum_weight=0"]),
    ):
        main(["fit", *arguments, f"--trainer.default_root_dir={tmp_path / name}", "--trainer.max_epochs=2"])
        weights.append(weights_of(tmp_path / name / "seqcls" / "version_0"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_logged_validation_loss_is_that_of_the_exact_weights(tmp_path):
    config = ["configs/seqcls.yaml", "configs/overlay/displaced.yaml"]
    options = [*SMALL, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1"]
    experiment = build(config, options)
    experiment.trainer.fit(experiment.module, datamodule=experiment.data)
    assert experiment.trainer.optimizers[0].displacement.circuit.circuits == 3
    with open(tmp_path / "seqcls" / "version_0" / "metrics.csv", newline="") as file:
        (logged,) = (float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"])
    module = experiment.module.eval()
    losses = []
    with torch.no_grad():
        for batch in experiment.data.val_dataloader():
            loss = F.cross_entropy(module(batch), batch["labels"], reduction="sum")
            losses.append(float(loss))
    assert logged == pytest.approx(sum(losses) / 64, rel=1e-5)


def test_each_fit_has_a_displacement_of_its_own(tmp_path):
    config = ["configs/seqcls.yaml", "configs/overlay/displaced.yaml"]
    experiment = build(config, [*SMALL, f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=1"])
    experiment.trainer.fit(experiment.module, datamodule=experiment.data)
    first = experiment.trainer.optimizers[0].displacement
    second = copy.copy(experiment.module).configure_optimizers().displacement
    assert first is not second
    assert second.circuit.circuits == 0


@pytest.mark.slow
@pytest.mark.parametrize("source", ["circuit", "gaussian", "live circuit"])
def test_two_ranks_displace_alike_and_stay_identical(tmp_path, source):
    small = [f"--model.{name}=4" for name in ("embed_dim", "num_heads", "feedforward_dim")] + ["--model.num_layers=1"]
    key = "--model.optimizer.init_args.displacement.init_args"
    live = [
        f"{key}.circuit=lightning_qsgd.optim.LiveCircuitPerturbation",
        f"{key}.circuit.init_args.sampler=lightning_qsgd.quantum.AerSampler",
    ]  # fmt: skip
    callbacks = '["tests.ranks.SaveRanks", "tests.ranks.SaveDisplacedWeights"]'
    commands_on_two_ranks(
        ["fit", *FAST, "--config=configs/overlay/ddp2.yaml", *small, "--trainer.max_epochs=1",
         f"--trainer.default_root_dir={tmp_path}", f"--trainer.callbacks={callbacks}",
         *(live if source == "live circuit" else [f"{key}.source={source}"])]
    )  # fmt: skip
    (folder,) = (tmp_path / "seqcls").iterdir()
    for name in ("rank", "displaced"):
        first, second = (torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1))
        first, second = (x.get("weights", x) for x in (first, second))
        assert all(torch.equal(first[key], second[key]) for key in first)
