import warnings

import pytest
import torch

from lightning_qsgd.callbacks import DistributedChecks
from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.distributed import rank
from lightning_qsgd.tasks import SequenceClassification
from tests.datamodules.test_loading import Plain, trainer_on
from tests.ranks import on_two_ranks


def model():
    return SequenceClassification(embed_dim=8, num_heads=2, feedforward_dim=8, num_layers=1, max_length=32)


def agree(folders, checkpoints):
    trainer = trainer_on(1)
    try:
        DistributedChecks(folders[rank()], checkpoints[rank()]).setup(trainer, model(), "fit")
    except ValueError as error:
        return str(error)
    return trainer.default_root_dir


def test_all_ranks_have_the_folder_of_rank_0(tmp_path):
    folders = [str(tmp_path / "version_3"), str(tmp_path / "version_2")]
    assert on_two_ranks(agree, tmp_path, folders, ["last.ckpt"] * 2) == folders[:1] * 2


def test_ranks_that_resume_from_different_checkpoints_are_refused(tmp_path):
    found = on_two_ranks(agree, tmp_path, ["a", "b"], ["a/last.ckpt", None])
    assert found[0] == found[1]
    assert (
        "different checkpoints (rank 0: a/last.ckpt, rank 1: none); all machines must see the same folder" in found[0]
    )


def warnings_of_a_fit(folder, size, data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trainer_on(2, callbacks=[DistributedChecks(folder)])
        trainer.strategy._launcher = None  # the ranks are here already
        trainer.fit(model(), data(train_size=32, val_size=size))
    return [text for warning in caught if "examples twice" in (text := str(warning.message))]


@pytest.mark.parametrize(("size", "data"), [(9, Plain), (10, Plain), (9, SyntheticSequences)])
def test_repeated_examples_are_named_once(monkeypatch, tmp_path, size, data):
    monkeypatch.chdir(tmp_path)
    first, second = on_two_ranks(warnings_of_a_fit, tmp_path, tmp_path, size, data)
    assert second == []
    if (size, data) == (9, Plain):
        (text,) = first
        assert "validation counts 1 of 9 examples twice, so that each of 2 processes has 5" in text
        assert "lightning_qsgd.datamodules.evaluation_loader" in text
    else:
        assert first == []


@pytest.mark.parametrize("checkpoint", [None, "last.ckpt"])
def test_a_process_alone_agrees_with_itself(tmp_path, checkpoint):
    trainer = trainer_on(1)
    DistributedChecks(tmp_path, checkpoint).setup(trainer, torch.nn.Module(), "fit")
    assert trainer.default_root_dir == str(tmp_path)
