import lightning as L
import pytest
import torch

from lightning_qsgd.callbacks import TimeToTarget


class Rising(L.LightningModule):
    """val/accuracy is (epoch + 1) / 10."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).sum()

    def validation_step(self, batch, _):
        self.log("val/accuracy", (self.current_epoch + 1) / 10)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(4, 1), batch_size=2)

    val_dataloader = train_dataloader


def run(clock, epochs=5, **fit):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=epochs, callbacks=[clock], enable_model_summary=False, **options)
    trainer.fit(Rising(), **fit)
    return trainer


def test_records_the_first_validation_that_reaches_the_target(tmp_path):
    clock = TimeToTarget(target=0.3)
    trainer = run(clock)
    assert (clock.epochs, clock.steps) == (3, 6)
    assert 0 < clock.seconds < clock.elapsed
    assert clock.history == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])  # without the sanity check
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    resumed = TimeToTarget(target=0.3)
    run(resumed, 6, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert (resumed.epochs, len(resumed.history)) == (3, 6)
    assert resumed.elapsed > clock.elapsed


def test_a_miss_and_a_target_from_above():
    missed = TimeToTarget(target=0.9)
    run(missed)
    assert (missed.epochs, missed.steps, missed.seconds) == (None, None, None)
    below = TimeToTarget(target=0.15, mode="min")
    run(below)
    assert below.epochs == 1


def test_a_history_without_target_and_one_that_nobody_logs():
    history = TimeToTarget(target=None)
    run(history)
    assert (history.epochs, len(history.history)) == (None, 5)
    nobody = TimeToTarget("val/acc")
    run(nobody)
    assert (nobody.epochs, nobody.history) == (None, [])
    assert nobody.elapsed > 0


def test_an_invalid_mode_is_refused():
    with pytest.raises(ValueError, match="Invalid mode: 'up'"):
        TimeToTarget(mode="up")
