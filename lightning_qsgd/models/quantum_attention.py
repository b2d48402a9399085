"""QuantumAttention: attention whose scores are shifted by what a circuit answers to them.

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
    """softmax(S + gain * Phi(scale * S)) V, with S = Q K^T / sqrt(D / H) (Eq. 3).

    Phi of a head is the answer of its circuit to one score (Eq. 4), which enters every Ry: a Fourier series of few
    terms. Its coefficients take 1 + 2 * depth * num_qubits circuits for each head in each forward pass, instead of one
    circuit for each score. Its constant cancels in the softmax.

    Args:
        embed_dim, num_heads, dropout: as in :class:`Attention`.
        num_qubits, depth, entanglement: of the circuit (Eq. 5). Defaults: 4, 2, "linear"; "none" is the control for
            entanglement.
        readout: "probability" (default), "expectation" or "amplitude", see :class:`lightning_qsgd.quantum.ScoreSeries`.
        heads: the heads that have a Phi, 0 to H - 1; the others are classical. Default: all.
        shared: one circuit for all heads. Default: False.
        angles: "learned" (default) or "frozen" at their random initial values (a control).
        phi: "circuit" (default); controls without one: "series" (a trained series of the same frequencies), "random"
            (a fixed random one).
        gain: initial gain of each head. A fixed gain of 0 is classical attention bit for bit. Default: 1.
        learn_gain: Default: True.
        scale: initial radians per unit of score, of each head. Default: 1.
        learn_scale: Default: True.
        sampler: where circuits run, see :class:`lightning_qsgd.quantum.ScoreSeries`. Default: None, exact simulation.
        refresh_every: with a sampler, training steps between two runs of the circuits. Default: 1.
        kernel: "fused" (default), "compiled" (two to three times faster; needs a C++ compiler) or "plain" (twice
            differentiable), see :func:`lightning_qsgd.models.series_attention`.

    The projections have the names of :class:`Attention` and, drawn from the same seed, its initial values.

    Attributes:
        series: the :class:`lightning_qsgd.quantum.ScoreSeries`; its ``weights`` are the angles.
        gain, scale: (Q,).
        watch: set to True, the next forward pass resets it and leaves what :func:`attention_statistics` returns in
            ``statistics``.

    Raises:
        ValueError: for an invalid option.
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
        self.classical = gain == 0 and not learn_gain  # Phi is never asked: nothing of it is trained
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
        """The quantum heads, which must agree when a state is loaded."""
        return torch.tensor(self.heads)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: it was compared."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # type: ignore
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None and saved.tolist() != self.heads:
            args[-1].append(f"{prefix[:-1] or 'QuantumAttention'}: heads {saved.tolist()} are not {self.heads}")
        gain = state_dict.get(f"{prefix}gain")
        if self.classical and gain is not None and gain.any():
            args[-1].append(f"{prefix[:-1] or 'QuantumAttention'}: the gain was trained; here it is fixed at 0")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """As :meth:`Attention.attend`, with Phi in the quantum heads."""
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
        """gain * Phi as a series of each quantum head: coefficients (Q, 2 J), and radians per unit of score (Q,)."""
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
        """gain * Phi(scale * score) of each quantum head: (N,) to (Q, N); its constant, which cancels, left out."""
        coefficients, scale = self.shift_series()
        return evaluate_series((scale[:, None] * scores)[..., None], coefficients)[..., 0]


@torch.no_grad()
def attention_statistics(
    q: Tensor, k: Tensor, coefficients: Tensor, scale: Tensor, allowed: Tensor | None = None
) -> dict[str, Tensor]:
    """Compare attention with and without its series, on the first 16 sequences of a batch.

    Args:
        q, k, coefficients, scale, allowed: as for :func:`lightning_qsgd.models.series_attention`.

    Returns:
        Per head, (H,), float32, over all queries that see a key: ``score_spread`` and ``phi_spread``, root mean squares
        of scores and of Phi around their means over a query's keys; ``entropy`` and ``entropy_without`` Phi, in nats,
        means over the queries; ``moved``, the mean total variation distance between both, in [0, 1]. And
        ``score_range`` (2,): the 1 % and 99 % quantiles of all scores. All are 0 where no query sees a key.
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
