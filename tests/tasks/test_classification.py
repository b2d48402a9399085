import warnings
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.optim import CircuitPerturbation, ControlPerturbation, SuperpositionalGradientDescent
from lightning_qsgd.tasks import SequenceClassification

SMALL = {"embed_dim": 8, "num_heads": 2, "feedforward_dim": 8, "num_layers": 1, "max_length": 32}


def data(**arguments):
    return SyntheticSequences(**{"train_size": 96, "val_size": 64, "test_size": 64} | arguments)


def fit(module, epochs=1, callbacks=(), datamodule=None, **trainer):
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=epochs, enable_model_summary=False, callbacks=list(callbacks), **options | trainer)
    trainer.fit(module, datamodule=datamodule or data())
    return trainer


def test_metrics_are_those_of_the_whole_split():
    module = SequenceClassification(**SMALL)
    trainer = fit(module)
    assert {"train/loss", "val/loss", "val/accuracy", "val/f1"} <= set(trainer.callback_metrics)
    trainer.test(module, data(), verbose=False)
    batches = list(data().test_dataloader())
    labels = torch.cat([b["labels"] for b in batches])
    module.eval()
    with torch.no_grad():
        logits = torch.cat([module(b) for b in batches])
    expected = {
        "test/loss": F.cross_entropy(logits, labels),
        "test/accuracy": multiclass_accuracy(logits, labels, 4, average="micro"),
        "test/f1": multiclass_f1_score(logits, labels, 4, average="macro"),
    }
    for name, value in expected.items():
        torch.testing.assert_close(trainer.callback_metrics[name], value)
    probabilities = torch.cat(trainer.predict(module, data()))
    torch.testing.assert_close(probabilities, logits.softmax(-1))


def test_sizes_come_from_the_data_module_and_stay_in_the_checkpoint(tmp_path):
    module = SequenceClassification(**SMALL)
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    hyper_parameters = torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
    assert hyper_parameters == SMALL | {"vocab_size": 64, "num_classes": 4, "dropout": 0.1, "class_weights": None}
    loaded = SequenceClassification.load_from_checkpoint(tmp_path / "x.ckpt").eval()
    batch = next(iter(data().test_dataloader()))
    torch.testing.assert_close(loaded(batch), module.eval()(batch))


def test_unknown_sizes_are_an_error_with_a_way_out():
    module = SequenceClassification(num_classes=4)
    with pytest.raises(
        ValueError, match=r"Invalid vocab_size: None; set it in the config \(model.init_args.vocab_size"
    ):
        module.configure_model()


def losses(seed, draws=0):
    L.seed_everything(seed, verbose=False)
    seen = []

    class Draw(L.Callback):
        def on_train_batch_start(self, *_):
            torch.randn(draws)  # an arm that uses the global generator

        def on_train_batch_end(self, trainer, module, outputs, *_):
            seen.append(outputs["loss"].item())

    fit(SequenceClassification(**SMALL), 2, [Draw()])
    return seen


def test_dropout_and_order_are_a_function_of_seed_and_step():
    first = losses(0)
    assert len(first) == 6
    assert losses(0) == first
    assert losses(0, draws=10) == first  # paired, though it draws more
    assert losses(1) != first


def test_dropout_differs_between_batches_and_epochs():
    L.seed_everything(0, verbose=False)
    states = []

    class Record(L.Callback):
        def on_train_batch_end(self, *_):
            states.append(torch.get_rng_state().sum().item())

    fit(SequenceClassification(**SMALL), 2, [Record()])
    assert len(set(states)) == 6


def test_the_circuit_is_sampled_at_fit_start_and_only_then(capsys):
    counts = []

    class Count(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            counts.append(trainer.optimizers[0].perturbation.circuits)

    module = SequenceClassification(
        **SMALL, optimizer=partial(SuperpositionalGradientDescent, perturbation=CircuitPerturbation())
    )
    fit(module, callbacks=[Count()])
    fit(module, callbacks=[Count()])  # a second fit counts anew
    assert counts == [625] * 6
    assert "Circuit sampled on its grid: 625 circuits" in capsys.readouterr().out


def test_scheduler_steps_with_the_optimizer():
    module = SequenceClassification(
        **SMALL, optimizer=partial(torch.optim.AdamW, lr=0.1), scheduler=partial(CosineAnnealingLR, T_max=6)
    )
    trainer = fit(module)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_plateau_scheduler_watches_its_metric_and_others_count_steps():
    plateau = partial(ReduceLROnPlateau, monitor="val/loss", patience=0, factor=0.5, threshold=100.0)
    trainer = fit(SequenceClassification(**SMALL, optimizer=partial(torch.optim.AdamW, lr=0.1), scheduler=plateau), 3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_padding_and_class_weights_reach_the_loss():
    module = SequenceClassification(**SMALL, vocab_size=10, num_classes=2, dropout=0.0, class_weights=[1.0, 3.0])
    module.configure_model()
    module.log = lambda *_, **__: None
    tokens = torch.tensor([[1, 2, 9], [3, 4, 5]])
    batch = {"tokens": tokens, "padding_mask": tokens == 9, "labels": torch.tensor([0, 1])}
    short = module({"tokens": tokens[:1, :2]})
    torch.testing.assert_close(module(batch)[:1], short)
    each = F.cross_entropy(module(batch), batch["labels"], reduction="none")
    torch.testing.assert_close(module.training_step(batch, 0), (each[0] + 3 * each[1]) / 4)
    with pytest.raises(ValueError, match=r"Invalid class_weights: \[1.0\]; it must be 2 numbers"):
        SequenceClassification(vocab_size=10, num_classes=2, class_weights=[1.0]).configure_model()


def test_a_subclass_may_have_arguments_of_its_own():
    class Own(SequenceClassification):
        def __init__(self, alpha=0.1, **arguments):
            super().__init__(**arguments)

    fit(Own(alpha=0.2, **SMALL))


def test_a_resumed_run_continues_bit_for_bit(tmp_path):
    def module():
        L.seed_everything(0, verbose=False)
        reference = CircuitPerturbation(rotations="random", center="odd")
        optimizer = partial(
            SuperpositionalGradientDescent,
            perturbation=ControlPerturbation("shuffled", reference),
            scale="adam",
            scope="all",
        )
        return SequenceClassification(**SMALL, optimizer=optimizer)

    straight = module()
    fit(straight, 3)
    fit(module(), 1).save_checkpoint(tmp_path / "x.ckpt")
    resumed = module()
    trainer = L.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(resumed, datamodule=data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert trainer.optimizers[0].perturbation.circuits == 625  # the checkpoint brought the series
