"""The layout of TensorBoard's Custom Scalars page: charts with several curves, in groups."""

import re
from typing import Any

import lightning as L

from lightning_qsgd.callbacks.attention_monitor import AttentionMonitor
from lightning_qsgd.callbacks.parts import superpositional
from lightning_qsgd.callbacks.perturbation_monitor import PerturbationMonitor
from lightning_qsgd.callbacks.run_summary import that_count
from lightning_qsgd.callbacks.sampled_attention import quantum_layers
from lightning_qsgd.optim import (
    CircuitPerturbation,
    LiveCircuitPerturbation,
    SuperpositionalGradientDescent,
    TwinPerturbation,
)
from lightning_qsgd.optim.param_groups import participates
from lightning_qsgd.optim.perturbation import Perturbation

#: Of a group: title of a chart to (kind of chart, tags); as ``SummaryWriter.add_custom_scalars`` takes it.
Charts = dict[str, list[Any]]


def dashboard(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Charts]:
    """Groups, and charts in them, whose tags can occur in this run.

    Args:
        trainer: in a fit, once its optimizers are known.
        module: what it trains.

    Returns:
        Training, Quantum perturbation, Circuit, Attention, Cost; the middle three where the run has them.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    groups = {"Training": _training()}
    optimizer = superpositional(trainer.optimizers)
    monitor = next((c for c in callbacks if isinstance(c, PerturbationMonitor) and c.every_n_steps), None)
    counts = len(that_count(module, optimizer)) > (optimizer is not None)  # beside the perturbation
    if optimizer is not None and monitor is not None:
        groups["Quantum perturbation"] = _perturbation(optimizer, monitor)
        if any(map(participates, optimizer.param_groups)):
            if isinstance(optimizer.perturbation, CircuitPerturbation):
                groups["Circuit"] = _circuit(optimizer.perturbation)
            counts |= _runs_circuits(optimizer.perturbation)
    if any(isinstance(c, AttentionMonitor) and c.every_n_steps for c in callbacks) and quantum_layers(trainer, module):
        groups["Attention"] = _attention()
    groups["Cost"] = _cost(counts, on_gpu=module.device.type == "cuda")
    return {name: charts for name, charts in groups.items() if charts}


def _runs_circuits(perturbation: Perturbation) -> bool:
    if isinstance(perturbation, TwinPerturbation) and perturbation.asks:
        return _runs_circuits(perturbation.reference)
    return isinstance(perturbation, CircuitPerturbation)


def _training() -> Charts:
    return {
        "Loss: last batch, mean of an epoch, validation": _lines("train/loss", "train/loss_epoch", "val/loss"),
        "Validation scores": ["Multiline", ["val/(?!loss).+"]],  # accuracy and F1; of language models perplexity
        "Learning rate": _lines("train/learning_rate", parts=True),
    }


def _perturbation(optimizer: SuperpositionalGradientDescent, monitor: PerturbationMonitor) -> Charts:
    charts: Charts = {}
    if any(map(participates, optimizer.param_groups)):
        charts = {
            "Size beside Adam's step (touched coordinates)": _lines("quantum/norm_ratio_touched"),
            "Size beside Adam's step (all coordinates)": _lines("quantum/norm_ratio"),
            "Cosine with the gradient": _lines("quantum/cosine"),
            "Modulation: mean, 5 % to 95 %": ["Margin", ["quantum/offset", "quantum/s_low", "quantum/s_high"]],
            "Modulation: mean and spread": _lines("quantum/offset", "quantum/spread"),
            "Coordinates: touched, effective": _lines("quantum/touched", "quantum/effective"),
            "Schedule of the quantum weight": _lines("quantum/quantum_weight"),
        }
        if monitor.per != "model":
            charts |= {
                f"Size beside Adam's step, by {monitor.per}": _lines("quantum/norm_ratio/", parts=True),
                f"Spread of the modulation, by {monitor.per}": _lines("quantum/spread/", parts=True),
            }
    if optimizer.displacement is not None:
        charts["Schedule of the displacement's radius"] = _lines("quantum/radius")
    return charts


def _circuit(circuit: CircuitPerturbation) -> Charts:
    charts = {
        "Total variation from the exact circuit; of shots alone": _lines(
            "circuit/total_variation", "circuit/total_variation_expected"
        ),
        "Error of the modulation; of shots alone": _lines("circuit/error", "circuit/error_expected"),
    }
    if isinstance(circuit, LiveCircuitPerturbation):
        if circuit.on_failure == "series":
            charts["Steps that the series answered"] = _lines("quantum/fallback_steps")
    elif not circuit.calibration:
        charts["Residual of the series, once; of shots alone"] = _lines(
            "quantum/surrogate_residual", "quantum/surrogate_residual_expected"
        )
    return charts


def _attention() -> Charts:
    tags = {
        "Spread of the scores, and of what Phi adds": ("score_spread/", "phi_spread/"),
        "Share of Phi in the scores": ("phi_share/",),
        "Entropy of the weights: with Phi, without": ("entropy/", "entropy_without/"),
        "Attention that Phi moves": ("moved/",),
        "Gain and scale": ("gain/", "scale/"),
    }
    return {title: _lines(*(f"attention/{tag}" for tag in own), parts=True) for title, own in tags.items()}


def _cost(counts: bool, *, on_gpu: bool) -> Charts:
    charts = {
        "Seconds per step": _lines("cost/seconds_per_step"),
        "Peak memory, GB": _lines("cost/memory_GB", *["cost/gpu_memory_GB"] * on_gpu),
    }
    if counts:
        charts["Circuits so far: perturbation, others"] = _lines("quantum/circuits", "cost/other_circuits")
        charts["Shots so far: perturbation, others"] = _lines("quantum/shots", "cost/other_shots")
    return charts


def _lines(*tags: str, parts: bool = False) -> list[Any]:
    """A chart of these tags; TensorBoard takes regular expressions. With ``parts`` also of longer ones."""
    return ["Multiline", [f"{re.escape(tag)}{'.*' * parts}$" for tag in tags]]
