"""The row of a run in TensorBoard's page HPARAMS."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from lightning_qsgd.callbacks.hyperparameters import model_name
from lightning_qsgd.experiment import Experiment
from tests.common import SMALL, TINY_ARGUMENTS
from tests.own import RUN


def row(folder):
    """Values of the hyperparameters, and names of the metrics, that the page reads."""
    events = EventAccumulator(str(folder)).Reload()
    read = {
        tag: HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in events.summary_metadata.items()
        if tag.startswith("_hparams_/")
    }
    values = read["_hparams_/session_start_info"].session_start_info.hparams
    plain = {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
    metrics = [info.name.tag for info in read["_hparams_/experiment"].experiment.metric_infos]
    assert set(metrics) <= set(events.Tags()["scalars"])
    return plain, metrics


def test_a_run_of_ones_own_module_with_a_twin(tmp_path):
    arguments = ["--model=tests.own.Regression", "--checkpoint.monitor=val/mse", "--checkpoint.mode=min", *RUN]
    given = [*arguments, "--seed_everything=7", "--replace_circuits=mlp", f"--trainer.default_root_dir={tmp_path}"]
    result = Experiment((), given).fit()
    values, metrics = row(result.folder)
    expected = {"learning_rate": 0.05, "quantum_weight": 0.0, "model": "Regression", "twin": "mlp", "seed": 7}
    assert values == expected  # TensorBoard shows five columns, in the order of their names, and hides further ones
    assert metrics == ["val/mse"]


def test_a_run_with_a_perturbations_twin_and_a_schedule(tmp_path):
    files = [f"--config=configs/{name}.yaml" for name in ("seqcls", "overlay/frozen", "overlay/cosine")]
    given = [*files, *SMALL, *TINY_ARGUMENTS, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    result = Experiment((), [*given, "--model.optimizer.lr=0.002", "--model.optimizer.quantum_weight=0.25"]).fit()
    values, _ = row(result.folder)
    named = {name: values[name] for name in ("quantum_weight", "twin", "model", "seed")}
    assert named == {"quantum_weight": 0.25, "twin": "frozen", "model": "SequenceClassification", "seed": 0}
    assert values["learning_rate"] == pytest.approx(0.002)


def test_a_model_of_encoder_body_and_head_is_called_by_their_classes():
    module, inner = nn.Module(), nn.Module()
    inner.encoder, inner.body, inner.head = nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 1)
    module.model = inner
    assert model_name(module) == model_name(inner) == "Linear, Identity, Linear"
    assert model_name(nn.Sequential()) == "Sequential"
