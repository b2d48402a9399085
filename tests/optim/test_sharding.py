"""FSDP2's DTensors on 3 gloo ranks: the step is that of the whole tensors."""

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from tests.optim import model_parallel, sharded_runs
from tests.runs import on_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    arguments = (3, str(folder / "rendezvous"), str(folder / "results.pt"))
    on_ranks(sharded_runs.all_cases, arguments, 3)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("case", sharded_runs.CASES, ids=lambda case: "-".join((*case[:2], *case[2])))
def test_sharded_equals_whole(found, case):
    params, optimizer = sharded_runs.run(case, lambda tensor: tensor, record=True)
    sharded, statistics, circuits = found[case]
    for ours, whole in zip(sharded, params, strict=True):
        torch.testing.assert_close(ours, whole.detach(), atol=1e-12, rtol=1e-12)
    for name, value in statistics.items():
        torch.testing.assert_close(value, optimizer.statistics[name], atol=1e-9, rtol=1e-9, msg=name)
    assert circuits == optimizer.perturbation.circuits


def test_ranks_that_hold_nothing_of_a_group(found):
    for (sharded, ratio), (whole, expected) in zip(found["one row"], sharded_runs.one_row(lambda t: t), strict=True):
        torch.testing.assert_close(sharded, whole, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(ratio, expected)


def test_fully_shard_trains_as_one_process(found):
    for sharded, whole in zip(found["fully_shard"], sharded_runs.train(), strict=True):
        torch.testing.assert_close(sharded, whole, atol=1e-10, rtol=1e-10)


def test_state_survives_distributed_checkpoints(found):
    for resumed, straight in zip(found["resumed"], found["fully_shard"], strict=True):
        torch.testing.assert_close(resumed, straight, atol=0, rtol=0)


def test_other_ways_to_cut_tensors_are_refused(found):
    assert "Shard(dim=1)" in found["columns"]
    assert "use FSDP2" in found["fsdp1"]


def test_lightning_model_parallel_strategy_trains_saves_and_resumes_as_one_process(tmp_path):
    on_ranks(model_parallel.main, (tmp_path, "all", find_free_network_port()), 2)
    _, module = model_parallel.fit(tmp_path, "all", epochs=2)
    found = torch.load(tmp_path / "found.pt")
    for name, weight in model_parallel.whole(module).items():
        torch.testing.assert_close(found["weights"][name], weight, atol=1e-6, rtol=1e-5)
    assert found["circuits"] == 625  # the table came back from the checkpoint
