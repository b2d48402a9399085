"""Where circuits run and what they cost is printed; a resumed run on another engine is warned of."""

import re

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_qsgd.callbacks import CircuitEngines, ShotsByEpoch
from lightning_qsgd.quantum import (
    ExactSampler,
    QuantumLayer,
    QuantumNetwork,
    ShotSampler,
    SPSANetwork,
    named_circuit,
)

ANSATZ = named_circuit("ring", num_qubits=2, depth=1)


class Model(L.LightningModule):
    def __init__(self, engine="simulator", **options):
        super().__init__()
        self.reduce = nn.Linear(3, 2)
        self.circuit = QuantumLayer(ANSATZ, "expectations", engine, **options)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(("train", self.trainer.current_epoch, getattr(self.sampler, "shots", None)))
        return self.circuit(self.reduce(batch[0])).square().mean()

    def validation_step(self, batch, batch_idx):
        self.seen.append(("val", self.trainer.current_epoch, getattr(self.sampler, "shots", None)))
        self.circuit(self.reduce(batch[0]))

    @property
    def sampler(self):
        return getattr(self.circuit.engine, "sampler", None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(model, folder, *callbacks, ckpt_path=None, epochs=1, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=[*callbacks], num_sanity_val_steps=0, **quiet | options
    )
    data = DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=4)
    trainer.fit(model, data, data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ("simulator", "Circuits of the model: exact, on the native engine"),
        ("torch", "Circuits of the model: exact, on the torch engine on the CPU"),
        (ShotSampler(shots=4), "Circuits of the model: on ShotSampler, 4 shots"),
    ],
)
def test_where_circuits_run_is_printed(engine, text, tmp_path, capsys):
    fit(Model(engine), tmp_path, CircuitEngines())
    assert text in capsys.readouterr().out


def test_noise_is_said(tmp_path, capsys):
    fit(Model(noise={"readout": 0.1}), tmp_path, CircuitEngines())
    assert "with random Pauli errors, on the native engine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "options", "circuits", "gradients"),
    [
        (QuantumNetwork, {}, 68, 64),  # 4 rows, 8 angles with 2 circuits each
        (QuantumNetwork, {"observables": ["Z0", "X0"]}, 136, 128),
        (SPSANetwork, {}, 12, 8),
    ],
)
def test_the_cost_of_a_step_is_what_it_then_is(network, options, circuits, gradients, tmp_path, capsys):
    model = Model(network(ANSATZ, ShotSampler(shots=10)), **options)
    fit(model, tmp_path, CircuitEngines(), limit_train_batches=1, limit_val_batches=0)
    told = re.findall(r"Cost of circuit: (.*)", capsys.readouterr().out)
    assert len(told) == 1
    assert f"4 rows in a training step take {circuits} circuits, {gradients} of them for gradients" in told[0]
    assert f"{10 * circuits:,} shots, about " in told[0]
    assert model.circuit.circuits == circuits


def test_exact_samplers_have_no_shots_and_the_simulator_no_cost(tmp_path, capsys):
    fit(Model(ExactSampler()), tmp_path, CircuitEngines())
    assert re.search(r"of them for gradients, about .* s\. Cheaper", capsys.readouterr().out)
    fit(Model(), tmp_path, CircuitEngines())
    assert "Cost" not in capsys.readouterr().out


def test_a_run_that_is_resumed_on_another_engine_is_warned_of(tmp_path, recwarn):
    trainer = fit(Model("native"), tmp_path, CircuitEngines())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["circuit_engines"] == {"circuit": "native"}
    recwarn.clear()
    fit(Model("native"), tmp_path, CircuitEngines(), ckpt_path=tmp_path / "a.ckpt", epochs=2)
    assert not [w for w in recwarn if "ran on" in str(w.message)]
    with pytest.warns(UserWarning, match="The circuit of circuit ran on 'native', and now runs on 'torch'"):
        fit(Model("torch"), tmp_path, CircuitEngines(), ckpt_path=tmp_path / "a.ckpt", epochs=2)


def test_shots_by_epoch_are_those_of_training_alone(tmp_path):
    model = Model(ShotSampler(shots=100))
    fit(model, tmp_path, ShotsByEpoch({0: 1, 2: 7}), epochs=4, val_check_interval=1)
    shots = {("train", epoch): 1 if epoch < 2 else 7 for epoch in range(4)}
    shots |= {("val", epoch): 100 for epoch in range(4)}
    assert {(what, epoch): number for what, epoch, number in model.seen} == shots
    assert model.sampler.shots == 100
    assert sum(what == "train" for what, *_ in model.seen) == 8


@pytest.mark.parametrize("shots", [{1: 5}, {0: 0}, {}, {0: 1, -1: 5}])
def test_invalid_shots_are_refused(shots):
    with pytest.raises(ValueError, match="Invalid shots"):
        ShotsByEpoch(shots)


def test_shots_need_a_sampler_with_shots(tmp_path):
    for engine in ("simulator", ExactSampler()):
        with pytest.raises(ValueError, match="needs a layer whose circuits run on a sampler with shots"):
            fit(Model(engine), tmp_path, ShotsByEpoch({0: 1}))
