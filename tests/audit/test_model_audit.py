"""The audit as a whole, on this package's modules and data, and on a user's own."""

import random

import lightning as L
import numpy as np
import pytest
import torch

from lightning_qsgd.audit.findings import AttentionFindings, LayerFindings
from lightning_qsgd.audit.model_audit import audit_model
from lightning_qsgd.datamodules import SyntheticSequences
from lightning_qsgd.models import QuantumAttention, QuantumHead
from lightning_qsgd.tasks import SequenceClassification
from tests.audit.models import TRAINER, small, trainer
from tests.common import TINY


def states():
    return random.getstate()[1][:5], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_a_trained_task_with_head_and_attention():
    attention = lambda *sizes: QuantumAttention(*sizes, num_qubits=2, depth=1)  # noqa: E731
    head = lambda *sizes: QuantumHead(*sizes, num_qubits=2, depth=1)  # noqa: E731
    module = SequenceClassification(**TINY, head=head, attention=attention)
    data = SyntheticSequences(train_size=300, val_size=200, test_size=32)
    own = L.Trainer(max_epochs=1, enable_checkpointing=False, **TRAINER)
    own.fit(module, data)
    weights = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    before, training = states(), module.training
    layer, attention = audit_model(own, module, data, metric="val/accuracy")
    assert isinstance(layer, LayerFindings)
    assert isinstance(attention, AttentionFindings)
    assert (layer.name, layer.rows, layer.terms) == ("model.head.circuit", [200, 200], 9)
    assert attention.name == "model.blocks.0.attention"
    assert layer.metric.examples == 200
    assert [replacement.name for replacement in layer.replacements][-1] == "classical series"
    assert layer.replacements[-1].value == layer.metric.value  # two angles: it is the whole series
    assert states() == before
    assert module.training == training
    after = module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    again = audit_model(own, module, data, metric="val/accuracy")
    assert again == [layer, attention]


def test_a_users_own_module():
    (found,) = audit_model(trainer(), small(), metric="val/accuracy")
    assert found.name == "layer"


def test_without_quantum_parts_there_is_nothing():
    module = small()
    module.layer = torch.nn.Linear(2, 2)
    module.layer.ansatz = small().layer.ansatz
    assert audit_model(trainer(), module, metric="val/accuracy") == []


def test_nothing_stays_behind_after_an_error():
    module = small()
    module.failing = True
    before = states()
    with pytest.raises(ArithmeticError, match="on purpose"):
        audit_model(trainer(), module, metric="val/accuracy")
    assert "forward" not in vars(module.layer)
    assert not module._forward_hooks
    assert states() == before
