import lightning as L
import pytest
import torch
from torch import nn

from lightning_qsgd.audit.passes import Passes, Reservoir, substituted
from tests.audit.models import TRAINER, small, trainer


def test_a_reservoir_takes_all_rows_alike():
    counts = torch.zeros(100)
    for seed in range(400):
        reservoir = Reservoir(20, seed)
        for rows in torch.arange(100.0).split(7):
            reservoir.add(rows, 2 * rows)
        first, second = reservoir.columns()
        assert torch.equal(second, 2 * first)
        assert len(first.unique()) == 20
        counts += torch.bincount(first.long(), minlength=100)
    assert (reservoir.seen, first.dtype) == (100, torch.float64)
    assert (counts / 400 - 0.2).abs().max() < 5 * (0.16 / 400) ** 0.5


def test_a_reservoir_that_is_not_full_keeps_everything():
    reservoir = Reservoir(20, 0)
    assert reservoir.columns() == []
    reservoir.add(torch.arange(5.0))
    assert sorted(reservoir.columns()[0].tolist()) == [0, 1, 2, 3, 4]


def test_methods_come_back_after_an_error():
    layer = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), substituted([(layer, "forward", lambda x: x / 0)]):
        layer(1)
    assert "forward" not in vars(layer)
    outer = lambda x: 2 * x  # noqa: E731
    layer.forward = outer
    with substituted([(layer, "forward", lambda x: x), (layer, "forward", lambda x: 3 * x)]):
        assert layer(torch.ones(1)) == 3
    assert vars(layer)["forward"] is outer


def test_a_pass_leaves_module_trainer_and_generators_alone():
    module, own = small(), trainer()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    callbacks, loggers, keys = own.callbacks, own.loggers, set(vars(module.layer))
    module.train()
    passes = Passes(own, module, None, "val/accuracy")
    first, second = passes.run(), passes.run()
    assert first.value == second.value
    assert torch.equal(first.right, second.right)
    assert first.right.double().mean().item() == pytest.approx(first.value, abs=1e-6)
    module.failing = True
    with pytest.raises(ArithmeticError, match="on purpose"):
        passes.run(lambda module: substituted([(module.layer, "forward", lambda x: x)]))
    assert (own.callbacks, own.loggers, set(vars(module.layer))) == (callbacks, loggers, keys)
    assert not module._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_validation_goes_back_to_training_mode():
    module = small()
    module.train()
    Passes(trainer(), module, None, "val/accuracy").run()
    assert module.training


def test_a_change_is_entered():
    module = small()
    passes = Passes(trainer(), module, None, "val/accuracy")
    ones = passes.run(lambda module: substituted([(module.layer, "forward", torch.ones_like)]))
    assert ones.right.double().mean().item() == pytest.approx(ones.value, abs=1e-6)
    with torch.no_grad():
        expected = module.read(torch.ones(1, 2)).argmax().item()
    labels = torch.cat([y for _, y in module.val_dataloader()])
    assert torch.equal(ones.right, labels == expected)


def test_compiled_models_run_uncompiled():
    """Compiled code may not see that a part of it was replaced."""
    module = small()
    net = nn.Sequential(module.layer, module.read)
    net.compile(backend="eager")
    module.forward = net
    module(torch.zeros(64, 2))
    ones = Passes(trainer(), module, None, "val/accuracy").run(
        lambda module: substituted([(module.layer, "forward", torch.ones_like)])
    )
    expected = module.read(torch.ones(1, 2)).argmax().item()
    assert torch.equal(ones.right, torch.cat([y for _, y in module.val_dataloader()]) == expected)


def test_metrics():
    module = small()
    with pytest.raises(ValueError, match=r"Invalid metric: None; .*metric='val/accuracy'"):
        Passes(trainer(), module, None)
    with pytest.raises(ValueError, match=r"Invalid metric: 'val/f1'; validation logs val/accuracy"):
        Passes(trainer(), module, None, "val/f1").run()
    monitored = L.Trainer(callbacks=[L.pytorch.callbacks.ModelCheckpoint(monitor="val/loss", mode="min")], **TRAINER)
    passes = Passes(monitored, module, None)
    assert (passes.metric, passes.mode) == ("val/loss", "min")
    with pytest.raises(ValueError, match="No validation data"):
        Passes(L.Trainer(limit_val_batches=0, **TRAINER), module, None, "val/accuracy").run()


def test_the_commonest_label_is_counted():
    module = small()
    passes = Passes(trainer(), module, None, "val/accuracy")
    passed = passes.run()
    labels = torch.cat([batch[1] for batch in module.val_dataloader()])
    assert passed.chance == labels.bincount().max() / len(labels)
    assert passes.judged(passed).chance == passed.chance


def test_metrics_that_are_no_share_of_right_examples_have_no_pairs():
    module = small()
    module.validation_step = lambda batch, batch_idx: module.log("val/accuracy", module(batch[0]).square().mean())
    assert Passes(trainer(), module, None, "val/accuracy").run().right is None


def test_several_processes_are_refused():
    class Two:
        world_size = 2

    with pytest.raises(ValueError, match=r"Invalid trainer.devices: 2 processes; .*--trainer.devices 1"):
        Passes(Two(), small(), None)


def test_training_data_are_those_of_the_trainer_or_the_module():
    module = small()
    assert len(Passes(trainer(), module, None, "x").training_data().dataset) == 300
    module.train_dataloader = L.LightningModule.train_dataloader.__get__(module)
    assert Passes(trainer(), module, None, "x").training_data() is None


def test_the_direction_is_that_of_the_metric():
    modes = [Passes(trainer(), small(), None, *named).mode for named in (["val/loss"], ["val/f1"], ["energy", "min"])]
    assert modes == ["min", "max", "min"]
    with pytest.raises(ValueError, match="Invalid mode: 'max'; lower val/loss is better"):
        Passes(trainer(), small(), None, "val/loss", "max")
