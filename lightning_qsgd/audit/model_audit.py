"""Audit the quantum parts of a trained module: circuit layers and quantum attention."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import lightning as L

from lightning_qsgd.audit.attention import ScoreRecorder, attention_layers, audit_attention
from lightning_qsgd.audit.findings import AttentionFindings, LayerFindings
from lightning_qsgd.audit.layers import Recorder, audit_layer, circuit_layers
from lightning_qsgd.audit.passes import Passes, substituted
from lightning_qsgd.callbacks.resume_state import get_states, set_states


def audit_model(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule | None = None,
    *,
    metric: str | None = None,
    mode: Literal["max", "min"] | None = None,
    seed: int = 0,
) -> list[LayerFindings | AttentionFindings]:
    """Audit each circuit layer and each quantum attention layer of a trained module.

    The audit validates once while recording, and once for each classical replacement. It also runs ``validation_step``
    over the training data once, to fit series to them. Afterwards the module, the random number generators and the
    samplers' noise are in their original states; ``trainer.callback_metrics`` holds the last pass's.

    Args:
        trainer: a trainer with one process.
        module: the trained module, or one with the weights of a checkpoint.
        data: its data module. Default: None, the module has its own data loaders.
        metric: the logged validation metric by which replacements are judged. Default: None, the metric that the
            trainer's ModelCheckpoint monitors.
        mode: "max" if higher is better, or "min". Default: None, "min" for names that end in loss, mse, mae, error and
            the like, "max" for accuracy, f1, r2 and the like, otherwise that of the ModelCheckpoint that monitors it,
            or "max".
        seed: seed of the samples of inputs and scores, and of validation. Default: 0.

    Returns:
        Findings for each layer in the order of the module, circuit layers first; empty without such layers.

    Raises:
        ValueError: for a trainer with several processes, a metric that is not logged, a mode that it does not have, or
            no validation data.
    """
    if not circuit_layers(module) and not attention_layers(module):
        return []
    passes = Passes(trainer, module, data, metric, mode, seed)
    layers: dict[str, Recorder] = {}
    attentions: dict[str, ScoreRecorder] = {}
    before: dict[str, tuple[int, int] | None] = {}

    def record(module: L.LightningModule) -> AbstractContextManager[Any]:
        layers.update((name, Recorder(layer, seed)) for name, layer in circuit_layers(module).items())
        before.update((name, recorder.layer.counts) for name, recorder in layers.items())
        attentions.update((name, ScoreRecorder(layer, seed)) for name, layer in attention_layers(module).items())
        return substituted([*(r.change for r in layers.values()), *(r.change for r in attentions.values())])

    device = trainer.strategy.root_device
    states = get_states(device)
    try:
        trained = passes.run(record)
        training: dict[str, Recorder] = {}
        if layers and (loader := passes.training_data()) is not None:
            training = {name: Recorder(recorder.layer, seed) for name, recorder in layers.items()}
            passes.run(lambda module: substituted([r.change for r in training.values()]), loader)
        found = [audit_layer(passes, trained, r, training.get(name)) for name, r in layers.items()]
        found_attention = audit_attention(passes, trained, attentions)
        return [_counted(f, layers[f.name].layer.counts, before[f.name]) for f in found] + found_attention
    finally:
        passes.rewind()
        set_states(states, device)


def _counted(found: LayerFindings, after: tuple[int, int] | None, before: tuple[int, int] | None) -> LayerFindings:
    if after is None or before is None:
        return found
    return replace(found, circuits=after[0] - before[0], shots=after[1] - before[1])
