import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lightning_qsgd.callbacks import TestReport
from lightning_qsgd.datamodules import SyntheticSequences, evaluation_loader
from lightning_qsgd.datamodules.loading import EachOnce
from lightning_qsgd.tasks import SequenceClassification


def trainer_on(devices, **options):
    return L.Trainer(
        accelerator="cpu", devices=devices, strategy="auto" if devices == 1 else "ddp_fork", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1, **options,
    )  # fmt: skip


@given(st.integers(1, 200), st.integers(1, 17))
def test_ranks_share_a_split_without_repetition(size, world):
    if size < world:
        with pytest.raises(ValueError, match=f"{world} processes for {size} examples"):
            EachOnce(range(size), world, 0)
        return
    samplers = [EachOnce(range(size), world, rank) for rank in range(world)]
    assert [index for sampler in samplers for index in sampler] == list(range(size))
    lengths = [len(sampler) for sampler in samplers]
    assert max(lengths) - min(lengths) <= 1


def test_a_loader_outside_of_lightning_has_everything():
    loader = evaluation_loader(range(5), 2, None)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(evaluation_loader([], 2, None)) == 0


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-true", 1e-3)])
def test_metrics_on_two_ranks_are_those_of_one(tmp_path, monkeypatch, precision, tolerance):
    """32 and 33 examples, in 4 and 5 batches of 8 and less; the other batches' logits differ in their last bits."""
    monkeypatch.chdir(tmp_path)
    data = SyntheticSequences(val_size=65, test_size=71, batch_size=1)
    torch.manual_seed(0)
    module = SequenceClassification(embed_dim=8, num_heads=2, feedforward_dim=8, num_layers=1, max_length=32)
    found = []
    for devices in (1, 2):
        trainer = trainer_on(devices, precision=precision, callbacks=[TestReport()])
        if devices == 1:
            trainer.validate(module, data, verbose=False)
        metrics = trainer.test(module, data, verbose=False)[0]
        metrics |= trainer_on(devices, precision=precision).validate(module, data, verbose=False)[0]
        found.append(metrics)
    assert found[0].keys() == found[1].keys() > {"val/loss", "test/loss", "test/calibration_error"}
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=tolerance), name
    assert sum(int(row.split(",")[1]) for row in (tmp_path / "classes.csv").read_text().splitlines()[1:]) == 71


def test_a_split_smaller_than_the_number_of_processes_is_refused():
    data = SyntheticSequences(test_size=1)
    module = SequenceClassification(embed_dim=8, num_heads=2, feedforward_dim=8, num_layers=1, max_length=32)
    with pytest.raises(Exception, match="2 processes for 1 examples; each process needs at least one"):
        trainer_on(2).test(module, data, verbose=False)


class Plain(SyntheticSequences):
    """A user's own loaders, as the README writes them."""

    def val_dataloader(self):
        return DataLoader(super().val_dataloader().dataset, batch_size=4)

    test_dataloader = val_dataloader
