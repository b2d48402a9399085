"""Quantum attention in a trained model: split what its circuits add to scores, and try classical replacements.

Shapes: B batch, H heads, Q quantum heads, T queries, K keys, d numbers per head, N scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_qsgd.audit.findings import AttentionFindings, HeadFindings, Replacement
from lightning_qsgd.audit.layers import lost_and_gained
from lightning_qsgd.audit.passes import Change, Passed, Passes, Reservoir, substituted
from lightning_qsgd.models.attention import Attention
from lightning_qsgd.models.quantum_attention import SEQUENCES, QuantumAttention

ROWS = 20_000  # scores of each head
CURVE, BINS = 201, 60


def attention_layers(module: nn.Module) -> dict[str, QuantumAttention]:
    """Find each :class:`QuantumAttention` with a Phi, by its name in the module."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, QuantumAttention)}
    return {name: part for name, part in found.items() if not part.classical}


class ScoreRecorder:
    """Records a sample of each quantum head's scores, without masked ones, from the first 16 sequences of each batch.

    Args:
        layer: the layer.
        seed: seed of the sample. Default: 0.
    """

    def __init__(self, layer: QuantumAttention, seed: int = 0) -> None:
        self.layer = layer
        self._samples = [Reservoir(ROWS, seed + q) for q in range(len(layer.heads))]
        self._attend = layer.attend

    @property
    def change(self) -> Change:
        """The recording method, for :func:`substituted`."""
        return (self.layer, "attend", self._record)

    def _record(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        heads = self.layer.heads
        with torch.autocast(q.device.type, enabled=False):
            asking, asked = q[:SEQUENCES, heads].float(), k[:SEQUENCES, heads].float()
            scores = (asking * q.shape[-1] ** -0.5) @ asked.mT  # (B, Q, T, K)
        seen = torch.ones((*scores.shape[:1], q.shape[1], *scores.shape[2:]), dtype=torch.bool, device=q.device)
        if allowed is not None:
            seen = seen & (allowed[:SEQUENCES] if allowed.ndim == 4 and len(allowed) > 1 else allowed)
        for sample, own, kept in zip(self._samples, scores.unbind(1), seen[:, heads].unbind(1), strict=True):
            sample.add(own[kept])
        return self._attend(q, k, v, allowed)

    def scores(self) -> list[Tensor]:
        """The scores of each quantum head (N,), float64, with N at most 20,000; empty if the layer was never called."""
        return [sample.columns()[0] for sample in self._samples if sample.seen]


@torch.no_grad()
def shift(layer: QuantumAttention, head: int, scores: Tensor) -> Tensor:
    """gain * Phi of quantum head ``head`` (0 to Q - 1), including its constant, at scores (N,): (N,), float64."""
    constant = (layer.gain[head] * layer.series()[head, 0]).item()
    return layer.phi(scores.to(layer.gain))[head].cpu().double() + constant


def audit_head(layer: QuantumAttention, head: int, scores: Tensor) -> HeadFindings:
    """Split what a head adds by least squares over its scores (N,), N at least 2."""
    added = shift(layer, head, scores)
    mean, middle = added.mean(), scores.mean()
    variance = (scores - middle).square().mean()
    slope = ((scores - middle) * (added - mean)).mean() / torch.where(variance > 0, variance, 1)
    power = added.square().mean()
    scale = torch.where(power > 0, power, 1)
    constant, linear = (mean.square() / scale).item(), (slope.square() * variance / scale).item()
    curved = max(0.0, 1 - constant - linear) if power > 0 else 0.0
    low, high = scores.quantile(torch.tensor([0.001, 0.999], dtype=scores.dtype)).tolist()
    grid = torch.linspace(low, high, CURVE, dtype=torch.float64)
    curve = torch.stack([grid, shift(layer, head, grid) - mean, slope * (grid - middle)], 1)
    return HeadFindings(
        layer.heads[head],
        constant,
        linear,
        curved,
        power.item(),
        1 + slope.item(),
        variance.sqrt().item(),
        len(scores),
        curve.tolist(),
        torch.histc(scores, BINS, low, high).long().tolist() if high > low else [len(scores)],
    )


def multiplied(layer: QuantumAttention, factors: list[float]) -> Change:
    """A method for :func:`substituted` with classical attention, and scores times a factor for each quantum head."""
    every = torch.ones(layer.num_heads)
    every[layer.heads] = torch.tensor(factors)

    def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        return Attention.attend(layer, q * every.to(q)[:, None, None], k, v, allowed)

    return (layer, "attend", attend)


def audit_attention(passes: Passes, trained: Passed, recorders: dict[str, ScoreRecorder]) -> list[AttentionFindings]:
    """Split what each quantum attention layer adds to scores over validation data, and try replacements in the model.

    Args:
        passes: passes of the trained model.
        trained: the pass of the unchanged model.
        recorders: records over validation data, by the name of the layer.
    """
    heads: dict[str, list[HeadFindings]] = {}
    for name, recorder in recorders.items():
        heads[name] = [audit_head(recorder.layer, q, scores) for q, scores in enumerate(recorder.scores())]
    asked = [name for name in recorders if heads[name]]

    def replace(names: list[str], where: str) -> list[Replacement]:
        tried = []
        for what, terms, line in (("no Phi", 0, False), ("linear part", 1, True)):
            factors = {n: [h.factor if line else 1.0 for h in heads[n]] for n in names}
            changes = [multiplied(recorders[n].layer, factors[n]) for n in names]
            passed = passes.run(lambda module, changes=changes: substituted(changes))
            changed = lost_and_gained(trained, passed)
            tried.append(Replacement(what + where, terms, _reproduced(names, line), passed.value, *changed))
        return tried

    def _reproduced(names: list[str], line: bool) -> float | None:
        rows = [h for n in names for h in heads[n]]
        moving = sum(h.power * (1 - h.constant) for h in rows)  # constants cancel
        return (sum(h.power * h.linear for h in rows) / moving if line else 0.0) if moving > 0 else None

    together = replace(asked, f" in all {len(asked)} layers") if len(asked) > 1 else []
    found = []
    for name, recorder in recorders.items():
        series = recorder.layer.series
        silent = [] if heads[name] else ["It was never called on the validation data."]
        found.append(
            AttentionFindings(
                name,
                series.source,
                series.readout,
                series.engine_name,
                len(series.spectrum.free),
                heads[name],
                passes.judged(trained),
                [*replace([name], ""), *together] if heads[name] else [],
                len(recorders),
                silent,
            )
        )
    return found
