"""Classical maps, and short series."""

import numpy as np
import pytest
import torch

from lightning_qsgd.audit.equivalents import map_shares, sine_amplitude, truncate
from lightning_qsgd.optim import CircuitPerturbation
from lightning_qsgd.quantum import ExactSampler


def angles_of(times=5, blocks=200, n=4, width=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0, width, (times, blocks, n)))


def maps(angles, s, tensors=None):
    tensors = np.zeros(angles.shape[1], dtype=int) if tensors is None else tensors
    return map_shares(angles, s, tensors, torch.ones(angles.shape[1]), torch.zeros_like(s))[0]


def test_a_number_a_table_and_a_sine_are_recognized():
    angles = angles_of()
    tensors = np.repeat([0, 1], 100)
    number = maps(angles, torch.full_like(angles, -0.9))
    assert all(number[name] == pytest.approx(1) for name in number if name not in ("sine", "one-angle series"))
    by_tensor = torch.from_numpy(np.where(tensors, -0.5, 0.5))[None, :, None].expand_as(angles)
    found = maps(angles, by_tensor, tensors)
    assert found["one per tensor"] == pytest.approx(1)
    assert found["one number"] == pytest.approx(0, abs=1e-9)
    table = torch.rand(angles.shape[1:], dtype=torch.float64).expand_as(angles)
    found = maps(angles, table, tensors)
    assert found["one per coordinate"] == found["frozen at step 0"] == pytest.approx(1)
    assert found["one per tensor"] < 0.9
    found = maps(angles, 0.3 * angles.sin())
    assert found["sine"] == pytest.approx(1)
    assert found["frozen at step 0"] < 0.5
    assert sine_amplitude(angles, 0.3 * angles.sin(), torch.ones(200)) == pytest.approx(0.3)
    assert maps(angles, 0.3 * angles.sin() + 0.2)["sine and constant"] == pytest.approx(1)


def test_padding_and_weights():
    angles = angles_of(blocks=2)
    s = torch.stack([torch.full((5, 4), 1.0), torch.full((5, 4), 3.0)], 1)
    s[:, :, 3] = torch.nan
    weights = torch.tensor([3.0, 1.0])
    shares, found = map_shares(angles, s, np.zeros(2, dtype=int), weights, s)
    assert found["one number"].flatten()[0] == pytest.approx(1.5)
    assert shares["one number"] == pytest.approx(1 - (3 * 0.25 + 2.25) / 12)
    assert shares["one-angle series"] == 1


def test_nothing_is_reproduced_by_nothing():
    angles = angles_of()
    assert set(maps(angles, torch.zeros_like(angles)).values()) == {0.0}


def flat(angles, function):
    angles = angles.reshape(-1, angles.shape[-1])
    return angles, function(angles), torch.ones(len(angles))


def test_a_series_of_few_terms_is_found():
    def function(a):
        return torch.stack([a[:, 0].sin(), a[:, 0].sin() * a[:, 1].cos() + 0.5, a[:, 2].cos(), 0 * a[:, 0]], 1)

    found = truncate(*flat(angles_of(blocks=2000, width=3.0), function), [5] * 4)
    assert found.terms == 1 + 2 + 1
    assert found.left < 1e-20
    assert found.largest == 2
    assert found.candidates == 4 * 625


def test_simple_terms_are_preferred_where_angles_hardly_move():
    found = truncate(*flat(angles_of(blocks=2000, width=0.01), lambda a: a), [5] * 4)
    assert found.terms == 4
    assert found.largest == 1


@pytest.mark.parametrize("width", [0.1, 0.5])
def test_what_is_left_is_at_most_the_error(width):
    perturbation = CircuitPerturbation(rotations="random", sampler=ExactSampler())
    angles, values, weights = flat(angles_of(blocks=1000, width=width), lambda a: perturbation(a, step=0))
    found = truncate(angles, values, weights, [5] * 4)
    assert found.terms is not None
    assert found.left <= 0.02
    finer = truncate(angles, values, weights, [5] * 4, error=1e-4)
    assert finer.terms is None or finer.terms > found.terms


def test_what_no_short_series_reaches_is_said():
    perturbation = CircuitPerturbation(rotations="random", sampler=ExactSampler())
    rng = torch.Generator().manual_seed(0)
    angles = torch.rand(8000, 4, generator=rng, dtype=torch.float64) * 2 * torch.pi
    found = truncate(angles, perturbation(angles, step=0), torch.ones(8000), [5] * 4, error=1e-6)
    assert found.terms is None
    assert found.left > 1e-6


def test_many_angles_have_products_of_two():
    found = truncate(
        *flat(angles_of(blocks=1000, n=8, width=2.0), lambda a: (a[:, :1] - a[:, 7:]).sin().expand(-1, 8)), [5] * 8
    )
    assert found.candidates == 8 * (1 + 8 * 4 + 28 * 16)
    assert found.terms == 8 * 2
    assert found.largest == 2
