"""QuantumAttention: attention whose scores are shifted by a function that a circuit computes from them.

Paper: arXiv 2511.01918, Eq. 3 to 5. Shapes as in attention.py; Q quantum heads, J frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_qsgd.models.attention import Attention
from lightning_qsgd.models.attention_kernels import Kernel, evaluate_series, series_attention

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

SEQUENCES = 16  # of a batch, in statistics


class QuantumAttention(Attention):
    """Attention with a trainable circuit in its scores: softmax(S + gain * Phi(scale * S)) V (Eq. 3).

    S = Q K^T / sqrt(D / H). Phi is the response of a head's circuit to one score (Eq. 4). The score enters every Ry, so
    Phi is a Fourier series with few terms: a forward pass computes its coefficients from 1 + 2 * depth * num_qubits
    circuits per head, instead of one circuit per score. The constant term cancels in the softmax.

    The projections have the same names as in :class:`Attention` and, drawn from the same seed, the same initial values.

    Args:
        embed_dim: embedding size D, a multiple of ``num_heads``.
        num_heads: number of heads H, at least 1.
        dropout: probability of dropping an attention weight in training, in [0, 1). Default: 0.
        num_qubits: qubits of the circuit (Eq. 5), 1 to 12. Default: 4.
        depth: layers of the circuit, at least 1. Default: 2.
        entanglement: "linear" or "none", the control for entanglement. Default: "linear".
        readout: "probability", "expectation" or "amplitude"; see :class:`lightning_qsgd.quantum.ScoreSeries`. Default:
            "probability".
        heads: the heads with a Phi, 0 to H - 1; the others are classical. Default: all.
        shared: whether all heads share one circuit. Default: False.
        angles: "learned", or "frozen" at their random initial values (a control). Default: "learned".
        phi: "circuit", or a control without a circuit: "series" trains the coefficients of a series with the same
            frequencies, "random" keeps random ones. Default: "circuit".
        gain: initial gain of each head, finite. If it is 0 and fixed, the module equals :class:`Attention` bit for bit.
            Default: 1.
        learn_gain: whether the gain is trained. Default: True.
        scale: initial scale of each head, radians per unit of score. Default: 1.
        learn_scale: whether the scale is trained. Default: True.
        sampler: where the circuits run; see :class:`lightning_qsgd.quantum.ScoreSeries`. Default: None, an exact
            simulation.
        refresh_every: with a sampler, training steps between two runs of the circuits, at least 1. Default: 1.
        kernel: "fused", "compiled" (two to three times faster, needs a C++ compiler) or "plain" (twice differentiable);
            see :func:`lightning_qsgd.models.series_attention`. Default: "fused".

    Attributes:
        series: the :class:`lightning_qsgd.quantum.ScoreSeries`; its ``weights`` are the angles of the circuits.
        gain, scale: (Q,), one for each quantum head.
        watch: set it to True to get ``statistics`` of the next forward pass, which resets it.
        statistics: what :func:`attention_statistics` returned last; None before.

    Raises:
        ValueError: if an option is invalid.
    """

    gain: Tensor
    scale: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        num_qubits: int = 4,
        depth: int = 2,
        entanglement: Literal["linear", "none"] = "linear",
        readout: Literal["probability", "expectation", "amplitude"] = "probability",
        heads: Sequence[int] | None = None,
        shared: bool = False,
        angles: Literal["learned", "frozen"] = "learned",
        phi: Literal["circuit", "series", "random"] = "circuit",
        gain: float = 1.0,
        learn_gain: bool = True,
        scale: float = 1.0,
        learn_scale: bool = True,
        sampler: BaseSamplerV2 | None = None,
        refresh_every: int = 1,
        kernel: Kernel = "fused",
    ) -> None:
        from lightning_qsgd.quantum import ScoreSeries

        super().__init__(embed_dim, num_heads, dropout)
        chosen = list(range(num_heads)) if heads is None else sorted(heads)
        if not chosen or len(set(chosen)) < len(chosen) or not 0 <= chosen[0] <= chosen[-1] < num_heads:
            raise ValueError(f"Invalid heads: {heads}; name at least one of 0 to {num_heads - 1}, each once")
        for name, value, choices in (("angles", angles, ("learned", "frozen")), ("kernel", kernel, get_args(Kernel))):
            if value not in choices:
                raise ValueError(f"Invalid {name}: {value!r}; it must be one of {', '.join(choices)}")
        if not math.isfinite(gain):
            raise ValueError(f"Invalid gain: {gain}; it must be finite")
        if not math.isfinite(scale) or (scale == 0 and not learn_scale):
            raise ValueError(f"Invalid scale: {scale}; it must be finite, and not 0 if learn_scale is false")
        self.classical = gain == 0 and not learn_gain  # Phi is never evaluated, and nothing in it is trained
        if self.classical and sampler is not None:
            raise ValueError(f"Invalid sampler: {type(sampler).__name__}; with a gain fixed at 0 no circuit runs")
        self.series = ScoreSeries(
            len(chosen),
            num_qubits,
            depth,
            entanglement,
            readout=readout,
            source=phi,
            shared=shared,
            trainable=angles == "learned" and not self.classical,
            sampler=sampler,
            refresh_every=refresh_every,
        )
        self.heads, self._others = chosen, [h for h in range(num_heads) if h not in chosen]
        self._back = sorted(range(num_heads), key=(self.heads + self._others).__getitem__)
        for name, value, learned in (("gain", gain, learn_gain), ("scale", scale, learn_scale)):
            learned = learned and not self.classical
            self.register_parameter(name, nn.Parameter(torch.full((len(chosen),), float(value)), learned))
        self.kernel: Kernel = kernel
        self.watch = False
        self.statistics: dict[str, Tensor] | None = None

    def get_extra_state(self) -> Tensor:
        """The indices of the quantum heads; they must be the same when a state is loaded."""
        return torch.tensor(self.heads)

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: the indices are compared before."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # type: ignore
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and saved.tolist() != self.heads:
            args[-1].append(f"{prefix[:-1] or 'QuantumAttention'}: heads {saved.tolist()} are not {self.heads}")
        gain = state_dict.get(f"{prefix}gain")
        if self.classical and gain is not None and gain.any():
            args[-1].append(f"{prefix[:-1] or 'QuantumAttention'}: the gain was trained; here it is fixed at 0")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Like :meth:`Attention.attend`, with Phi in the quantum heads."""
        if self.classical:
            return super().attend(q, k, v, allowed)
        if not self._others:
            return self._attend_with_phi(q, k, v, allowed)
        parts = []
        for heads, attend in ((self.heads, self._attend_with_phi), (self._others, super().attend)):
            by_head = allowed is not None and allowed.ndim > 2 and allowed.shape[-3] > 1
            mask = allowed[..., heads, :, :] if allowed is not None and by_head else allowed
            parts.append(attend(q[:, heads], k[:, heads], v[:, heads], mask))
        return torch.cat(parts, 1)[:, self._back]

    def shift_series(self) -> tuple[Tensor, Tensor]:
        """Coefficients (Q, 2 J) of gain * Phi in each quantum head, and its radians per unit of score (Q,)."""
        return self.gain[:, None] * self.series()[:, 1:], self.series.angle_factor * self.scale

    def _attend_with_phi(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        coefficients, scale = self.shift_series()
        if self.watch:
            self.watch = False
            self.statistics = attention_statistics(q, k, coefficients, scale, allowed)
        dropout = self.dropout if self.training else 0.0
        return series_attention(q, k, v, coefficients, scale, allowed, dropout, self.kernel)

    @torch.no_grad()
    def phi(self, scores: Tensor) -> Tensor:
        """gain * Phi(scale * score) of each quantum head, without its constant: scores (N,) to (Q, N)."""
        coefficients, scale = self.shift_series()
        return evaluate_series((scale[:, None] * scores)[..., None], coefficients)[..., 0]


@torch.no_grad()
def attention_statistics(
    q: Tensor, k: Tensor, coefficients: Tensor, scale: Tensor, allowed: Tensor | None = None
) -> dict[str, Tensor]:
    """Compare attention with and without its series on the first 16 sequences of a batch.

    Args:
        q, k, coefficients, scale, allowed: as in :func:`lightning_qsgd.models.series_attention`.

    Returns:
        A dict of float32 tensors, (H,) except ``score_range``, over all queries that see a key; 0 if none does.

        - ``score_spread``, ``phi_spread``: root mean square of the scores and of Phi around their mean over a query's
          keys.
        - ``entropy``, ``entropy_without``: mean entropy of the attention weights with and without Phi, in nats.
        - ``moved``: mean total variation distance between these weights, in [0, 1].
        - ``score_range``: (2,), the 1 % and 99 % quantiles of all scores.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k = q[:SEQUENCES].float(), k[:SEQUENCES].float()
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        phi = evaluate_series(scale.float()[:, None, None] * scores, coefficients.float())
        seen = torch.ones_like(scores, dtype=torch.bool)
        if allowed is not None:
            allowed = allowed[:SEQUENCES] if allowed.ndim == 4 and len(allowed) > 1 else allowed
            seen = seen & allowed
        rows = seen.any(-1)  # (B, H, T)

        def mean(values: Tensor, where: Tensor) -> Tensor:  # per head
            count = where.transpose(0, 1).flatten(1).sum(1).clamp(min=1)
            return (values * where).transpose(0, 1).flatten(1).sum(1) / count

        def spread(values: Tensor) -> Tensor:
            middle = (values * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
            return mean((values - middle).square(), seen).sqrt()

        def weights(logits: Tensor) -> Tensor:
            return logits.masked_fill(~seen, float("-inf")).softmax(-1).masked_fill(~seen, 0)

        after, before = weights(scores + phi), weights(scores)
        some = scores[seen] if seen.any() else scores.new_zeros(1)
        some = some[:: 1 + len(some) // 100_000]  # of all heads and sequences
        return {
            "score_spread": spread(scores),
            "phi_spread": spread(phi),
            "entropy": mean(-torch.xlogy(after, after).sum(-1), rows),
            "entropy_without": mean(-torch.xlogy(before, before).sum(-1), rows),
            "moved": mean((after - before).abs().sum(-1) / 2, rows),
            "score_range": torch.quantile(some, some.new_tensor([0.01, 0.99])),
        }
