"""Runs whose circuit layers are replaced by classical twins."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lightning_qsgd.callbacks import CircuitTwins
from lightning_qsgd.experiment import Experiment
from lightning_qsgd.quantum import QuantumLayer
from lightning_qsgd.twin_names import LAYER_TWINS, NoTwinError
from tests.common import SMALL, TINY_ARGUMENTS
from tests.own import RUN, Points, Regression
from tests.ranks import on_two_ranks
from tests.runs import differences

OWN = [*RUN, "--checkpoint.monitor=val/mse", "--checkpoint.mode=min", "--model=tests.own.Regression"]


def experiment(folder, *arguments, typed=OWN):
    return Experiment((), [*typed, f"--trainer.default_root_dir={folder}", *arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the linear twin, and its folder."""
    folder = tmp_path_factory.mktemp("linear")
    twin = experiment(folder, "--replace_circuits=linear")
    return twin, twin.fit(), folder


def test_a_run_of_a_twin_says_so_and_its_checkpoint_knows(run, tmp_path, capsys):
    twin, result, folder = run
    assert type(twin.module.circuit).kind == "linear"
    optimized = {id(p) for group in twin.trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in twin.module.parameters()}
    checkpoint = torch.load(result.best_checkpoint, weights_only=True)
    assert checkpoint["replace_circuits"] == "linear"
    assert "circuit.linear.weight" in checkpoint["state_dict"]
    again = experiment(folder)
    capsys.readouterr()
    tested = again.test("best")  # no word of the twin
    line = "Circuit circuit, 2 to 2, replaced by linear (a linear map of the same width): trainable parameters 2 -> 6"
    assert line in capsys.readouterr().out
    assert tested.metrics["test/mse"] == twin.trainer.test(twin.module, twin.data, "best", verbose=False)[0]["test/mse"]
    assert len(again.predict("best").outputs) == 2
    assert experiment(folder).validate("best", save=False).metrics["val/mse"] == result.metrics["val/mse"]


def test_another_twin_than_the_runs_is_refused(run, tmp_path):
    folder = run[2]
    for asked in ("tanh", "null"):
        with pytest.raises(ValueError, match=rf"Invalid replace_circuits: {asked}.*trained with linear: leave"):
            experiment(folder, f"--replace_circuits={asked}").test("best")
    own = experiment(tmp_path)
    best = own.fit().best_checkpoint
    with pytest.raises(ValueError, match=r"Invalid replace_circuits: linear; .*trained with null, with its own"):
        experiment(tmp_path, "--replace_circuits=linear").test(best)
    with pytest.raises(ValueError, match=r"Invalid weights_from: .* has the weights of another model"):
        experiment(tmp_path, "--replace_circuits=linear").fit(weights_from=best)


def test_a_resumed_run_is_an_uninterrupted_one(run, tmp_path):
    twin = run[0]
    first = experiment(tmp_path, "--replace_circuits=linear")
    first.build().trainer.callbacks.append(_StopAfter(4))  # in the second of two epochs of 3 steps
    first.fit()
    resumed = experiment(tmp_path)
    resumed.fit("last")
    assert resumed.trainer.global_step == twin.trainer.global_step
    straight = twin.module.state_dict()
    assert differences(straight, resumed.module.state_dict()) == []


class _StopAfter(L.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, *_):
        trainer.should_stop = trainer.global_step >= self.steps


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("kind", LAYER_TWINS)
def test_every_twin_trains_in_every_precision(kind, precision, tmp_path):
    twin = experiment(tmp_path, f"--replace_circuits={kind}", "--trainer.fast_dev_run=1")
    twin = Experiment((), [*twin._arguments, f"--trainer.precision={precision}"])
    twin.build()
    if precision == "64-true":  # our data are float32
        twin.module.forward = lambda x: Regression.forward(twin.module, x.double()).float()
    twin.fit()
    assert type(twin.module.circuit).kind == kind
    wanted = torch.float64 if precision == "64-true" else torch.float32
    assert all(p.dtype == wanted for p in twin.module.parameters())


class Late(Regression):
    """Builds its circuit in configure_model, once."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit: nn.Module | None = None

    def configure_model(self) -> None:
        if self.circuit is None:
            self.circuit = QuantumLayer("ring", "expectations", circuit={"num_qubits": 2, "depth": 1})


class Again(Regression):
    """Builds its circuit in each call of configure_model."""

    def configure_model(self) -> None:
        self.circuit = QuantumLayer("ring", "expectations", circuit={"num_qubits": 2, "depth": 1})


class Few(Regression):
    """Builds no circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = nn.Identity()


def fit(module, *callbacks, **options):
    callbacks = [CircuitTwins("tanh"), *callbacks]
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(fast_dev_run=2, callbacks=callbacks, **quiet, **options)
    trainer.fit(module, Points())
    return module


def test_a_model_that_is_built_in_configure_model_and_averaged(tmp_path):
    average = EMAWeightAveraging()
    module = fit(Late(), average)
    assert type(module.circuit).kind == "tanh"
    assert type(average._average_model.module.circuit).kind == "tanh"


def test_a_model_without_layers_or_with_new_ones_is_refused():
    with pytest.raises(NoTwinError, match="'tanh'; Few has no QuantumLayer"):
        fit(Few())
    with pytest.raises(NoTwinError, match="circuit was built after circuits were replaced"):
        fit(Again())


def test_a_sharded_model_is_refused(tmp_path):
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    with pytest.raises(NoTwinError, match=r"ModelParallelStrategy shards the model.*such as ddp"):
        fit(Late(), strategy=strategy, devices=1)


def trained_by_two(folder, kind):
    """The state of a run with DDP on two ranks, one of which begins with other weights of its twin."""
    module = Regression()
    with torch.no_grad():
        module.circuit.weights.add_(torch.distributed.get_rank())
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    callbacks = [CircuitTwins(kind)]
    trainer = L.Trainer(max_epochs=1, devices=2, strategy="ddp", callbacks=callbacks, default_root_dir=folder, **quiet)
    trainer.fit(module, Points())
    return {name: value for name, value in module.state_dict().items() if not name.endswith("_extra_state")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "untrained", "shuffled_inputs"])
def test_two_ranks_train_one_twin(kind, tmp_path):
    first, second = on_two_ranks(trained_by_two, tmp_path, str(tmp_path), kind)
    assert any(name.startswith("circuit.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_quantum_head_of_a_task(tmp_path):
    arguments = ["--config=configs/seqcls_quantum_head.yaml", *SMALL, *TINY_ARGUMENTS, "--trainer.fast_dev_run=1"]
    twin = experiment(tmp_path, "--replace_circuits=mlp", typed=arguments)
    twin.fit()
    assert type(twin.module.model.head.circuit).kind == "mlp"
    attention = ["--config=configs/seqcls.yaml", "--model.attention=quantum", *arguments[1:]]
    with pytest.raises(ValueError, match=r"attention.series \(ScoreSeries\) would stay"):
        experiment(tmp_path, "--replace_circuits=mlp", typed=attention).fit()
    with pytest.raises(ValueError, match="SequenceClassification has no QuantumLayer"):
        experiment(tmp_path, "--replace_circuits=mlp", typed=["--config=configs/seqcls.yaml", *arguments[1:]]).fit()


def test_an_unknown_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"replace_circuits: .*lineer"):
        experiment(tmp_path, "--replace_circuits=lineer").build()
