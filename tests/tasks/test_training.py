"""What each training batch seeds."""

import numpy as np
import pytest
import torch

from lightning_qsgd.tasks.training import OptimizedTask

ACCELERATORS = {"cuda": torch.cuda, "xpu": torch.xpu, "mtia": torch.mtia}


@pytest.fixture
def seeded(monkeypatch):
    """Which accelerators' generators have been seeded, and with what."""
    calls = []
    for name, module in ACCELERATORS.items():
        monkeypatch.setattr(module, "manual_seed_all", lambda seed, name=name: calls.append((name, seed)))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: calls.append(("mps", seed)))
    return calls


class OnDevice(OptimizedTask):
    """A task that says it is on a device."""

    def __init__(self, device):
        super().__init__()
        self.place = torch.device(device)

    device = property(lambda self: self.place)


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "xpu", "mps"])
def test_a_batch_seeds_the_cpu_and_the_modules_own_device_alone(device, seeded, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    expected = int(np.random.SeedSequence((3, 0, 5, 0)).generate_state(1)[0])
    torch.manual_seed(expected)
    state = torch.get_rng_state()
    seeded.clear()
    torch.rand(3)
    OnDevice(device).on_train_batch_start(None, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert seeded == ([] if device == "cpu" else [(device.split(":")[0], expected)])


def test_without_a_seed_nothing_is_seeded(seeded, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    state = torch.get_rng_state()
    OnDevice("cuda").on_train_batch_start(None, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert seeded == []
