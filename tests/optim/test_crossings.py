"""Distributed checkpoints cross between one process and FSDP2 on two gloo ranks, as AdamW's do."""

import pytest
import torch

from tests.optim import crossings
from tests.runs import on_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    single, sharded = tmp_path_factory.mktemp("single"), tmp_path_factory.mktemp("sharded")
    for name in crossings.OPTIMIZERS:
        crossings.save(single, name)
    rendezvous = str(tmp_path_factory.mktemp("ranks") / "rendezvous")
    on_ranks(crossings.two_ranks, (rendezvous, single, sharded), 2)
    back = {name: crossings.load(sharded, name) for name in crossings.OPTIMIZERS}
    return {"to two ranks": torch.load(sharded / "found"), "to one process": back}


@pytest.mark.parametrize("name", crossings.OPTIMIZERS)
@pytest.mark.parametrize("way", crossings.WAYS)
@pytest.mark.parametrize("direction", ["to two ranks", "to one process"])
def test_checkpoints_cross(found, direction, way, name):
    model, optimizer = crossings.make(name)
    crossings.train(model, optimizer, range(4))
    weights = found[direction][name][way]
    assert not isinstance(weights, str), weights
    for key, value in crossings.whole(model).items():
        torch.testing.assert_close(weights[key], value, atol=1e-10, rtol=1e-10)
