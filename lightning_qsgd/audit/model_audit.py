"""The audit of a trained module's quantum parts: circuit layers and quantum attention."""

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
    mode: Literal["max", "min"] = "max",
    seed: int = 0,
) -> list[LayerFindings | AttentionFindings]:
    """Audit each circuit layer and each quantum attention layer of a trained module.

    Validates once while recording, once more for each classical replacement, and runs ``validation_step`` once over the
    training data, for what is refitted to them. The module, the generators of random numbers and the samplers' places
    in their noise are afterwards as they were; ``trainer.callback_metrics`` are those of the last pass.

    Args:
        trainer: on one process.
        module: trained, or loaded from a checkpoint.
        data: its data module; None (default): the module has dataloaders of its own.
        metric: that replacements are judged by, as validation logs it. Default: what the trainer's ModelCheckpoint
            monitors.
        mode: of a metric that no ModelCheckpoint monitors: "max" (default), more is better, or "min".
        seed: of the samples of inputs and scores, and of validation. Default: 0.

    Returns:
        Findings in the order of the module's parts, circuit layers first; an empty list without any.

    Raises:
        ValueError: for a trainer on several processes, a metric that is not logged, or no validation data.
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
