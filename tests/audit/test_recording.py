"""What is recorded of a run: the very angles and answers, evenly spaced, with padding left out."""

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from lightning_qsgd.audit.recording import Panel, Recorder, find_optimizer
from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, SuperpositionalGradientDescent
from lightning_qsgd.quantum import ExactSampler


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def train(net, optimizer, steps=7, recorder=None):
    recorder = Recorder() if recorder is None else recorder
    recorder.listen(optimizer, net)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.ones(4, 6)).square().sum().backward()
        history.append([p.detach().clone() for p in net.parameters()])
        optimizer.step()
    recorder.close()
    return recorder.trajectory(), history


def optimizer_of(net, scope="all", perturbation=None, **options):
    return SuperpositionalGradientDescent(net.parameters(), scope=scope, perturbation=perturbation, **options)


@pytest.mark.parametrize("blockwise", [True, False])
@pytest.mark.parametrize("scope", ["all", "first_of_tensor", "first_of_model"])
def test_angles_are_pi_times_the_weights(scope, blockwise):
    net = model()
    perturbation = CircuitPerturbation(sampler=ExactSampler(), shot_noise=None if blockwise else 100)
    trajectory, history = train(net, optimizer_of(net, scope, perturbation))
    assert trajectory.steps.tolist() == list(range(7))
    sizes = {"all": [30, 5, 15, 3], "first_of_tensor": [4, 4, 4, 3], "first_of_model": [4]}[scope]
    assert trajectory.touched == sum(sizes)
    assert trajectory.complete
    for t, weights in enumerate(history):
        flat = [w.flatten()[:size] * torch.pi for w, size in zip(weights, sizes, strict=False)]
        padded = [torch.cat([part, part.new_full((-len(part) % 4,), torch.nan)]) for part in flat]
        torch.testing.assert_close(trajectory.angles[t], torch.cat(padded).view(-1, 4), equal_nan=True)
    assert (trajectory.s.isnan() == trajectory.angles.isnan()).all()
    if blockwise and scope == "all":
        kept = trajectory.angles[3].nan_to_num()
        expected = perturbation(kept, step=0).masked_fill(trajectory.angles[3].isnan(), torch.nan)
        torch.testing.assert_close(trajectory.s[3], expected, equal_nan=True)
    assert trajectory.tensor_names()[0] == "0.weight"


def test_many_steps_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("lightning_qsgd.audit.recording.STEPS", (8, 8))
    net = model()
    trajectory, _ = train(net, optimizer_of(net), steps=50)
    assert trajectory.steps.tolist() == [0, 8, 16, 24, 32, 40, 48]


@pytest.mark.parametrize("blockwise", [True, False])
def test_large_tensors_are_sampled_with_their_weight(monkeypatch, blockwise):
    monkeypatch.setattr("lightning_qsgd.audit.recording.BLOCKS", 40)
    monkeypatch.setattr("lightning_qsgd.audit.recording.LEAST", 16)
    monkeypatch.setattr("lightning_qsgd.optim.coordinates.CHUNK", {"cpu": 64})  # many questions in each step
    net = nn.Sequential(nn.Linear(40, 41), nn.Linear(41, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.arange(p.numel()).view_as(p) / 1e4)
    optimizer = optimizer_of(net, perturbation=None if blockwise else ControlPerturbation("uniform"))
    recorder = Recorder()
    recorder.listen(optimizer, net)
    net(torch.ones(1, 40)).sum().backward()
    optimizer.step()
    trajectory = recorder.trajectory()
    assert not trajectory.complete
    assert trajectory.stands_for.sum() == pytest.approx(410 + 11 + 21 + 1)
    first = (trajectory.angles[0, trajectory.numbers == 0, 0] / torch.pi * 1e4).round()
    assert len(first) == 16
    assert (first % 4 == 0).all()
    assert (first.diff() > 0).all()


def test_a_block_without_gradient_in_one_step_is_left_out():
    net = model()
    optimizer = optimizer_of(net)
    recorder = Recorder()
    recorder.listen(optimizer, net)
    for step in range(2):
        optimizer.zero_grad()
        (net(torch.ones(1, 6)) if step else net[0](torch.ones(1, 6))).sum().backward()
        optimizer.step()
    trajectory = recorder.trajectory()
    assert set(trajectory.tensor_names()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert trajectory.s[0, trajectory.numbers >= 2].isnan().all()


def test_it_changes_nothing_and_leaves_nothing_behind():
    nets = [model(), model()]
    optimizers = [optimizer_of(net, scale="adam", quantum_weight=0.5) for net in nets]
    train(nets[0], optimizers[0])
    for _ in range(7):
        optimizers[1].zero_grad()
        nets[1](torch.ones(4, 6)).square().sum().backward()
        optimizers[1].step()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(a, b)
    assert optimizers[0].perturbation.on_answer is None
    assert not optimizers[0].record_statistics


def test_nothing_perturbed_is_nothing():
    net = model()
    assert train(net, optimizer_of(net, quantum_weight=0.0))[0] is None
    assert Recorder().trajectory() is None


def test_settings_are_those_of_a_perturbed_group_and_more_optimizers_are_named():
    net = model()
    first, *others = net.parameters()
    groups = [{"params": [first], "quantum_weight": 0.0}, {"params": others, "lr": 0.5}]
    optimizer = SuperpositionalGradientDescent(groups, lr=0.1, quantum_weight=0.25)
    recorder = Recorder()
    recorder.listen(optimizer, net)
    net(torch.ones(4, 6)).square().sum().backward()
    optimizer.step()
    assert (recorder.trajectory().settings["quantum_weight"], recorder.trajectory().settings["lr"]) == (0.25, 0.5)
    with pytest.warns(UserWarning, match="2 optimizers have a perturbation; only the first"):
        assert find_optimizer([torch.optim.SGD([first]), optimizer, optimizer]) is optimizer


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = model()

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().sum()

    def configure_optimizers(self):
        return optimizer_of(self.net, scale="adam")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_as_a_callback_it_takes_statistics_too(accumulate, tmp_path):
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[recorder],
        accelerator="cpu",
    )
    trainer.fit(Small(), torch.utils.data.DataLoader(torch.ones(12, 6), batch_size=2))
    trajectory = recorder.trajectory()
    assert len(trajectory.steps) == 12 // accumulate
    assert len(trajectory.statistics) == 12 // accumulate
    assert all(0 < row["norm_ratio"] < 1 for row in trajectory.statistics)
    assert trajectory.names[0] == "net.0.weight"
    assert trajectory.settings["scale"] == "adam"


def test_panels_are_random_and_seeded():
    a, b, c = Panel([10_000, 3], 4), Panel([10_000, 3], 4), Panel([10_000, 3], 4, seed=1)
    assert np.array_equal(a.find([(0, 10_000, 0)], {})[0], b.find([(0, 10_000, 0)], {})[0])
    assert not np.array_equal(a.find([(0, 10_000, 0)], {})[0], c.find([(0, 10_000, 0)], {})[0])
