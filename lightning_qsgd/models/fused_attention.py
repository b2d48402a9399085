"""Series attention head by head, in chunks of scores that fit the cache; for the gradient they are computed again.

So no tensor of all scores is kept. Shapes as in attention_kernels.py; b rows of the batch and t queries in a chunk.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_qsgd.models.score_function import derivative

CHUNK = 2**15  # scores handled at once by each thread
CHUNK_GPU = 2**22


class Operands(NamedTuple):
    """What attention is computed from, in one dtype; see :func:`lightning_qsgd.models.series_attention`."""

    q: Tensor  # (B, H, T, d)
    k: Tensor  # (B, H, K, d)
    v: Tensor  # (B, H, K, d)
    coefficients: Tensor  # (H, 2 J)
    scale: Tensor  # (H,)
    allowed: Tensor | None  # broadcastable to (B, H, T, K)
    kept: Tensor | None  # (B, H, T, K) uint8: 1 where a weight is not dropped


class _Waves:
    """cos(j x) and sin(j x), j = 1..J, of angles x (N,), in memory that is used again.

    That memory stays in the cache, and allocating it anew would cost as much as filling it. Each step of Chebyshev's
    recurrence cos(j x) = 2 cos(x) cos((j-1) x) - cos((j-2) x) is one operation, because rows have signs that make its
    last term positive: + + - - + + ...; ``signs`` (2 J,) has each twice.
    """

    def __init__(self, frequencies: int, size: int, like: Tensor) -> None:
        signs = [1.0 - 2 * (j // 2 % 2) for j in range(frequencies)]
        self._steps = [a * b for a, b in itertools.pairwise(signs)]
        self.signs = like.new_tensor(signs).repeat_interleave(2)
        self._space = like.new_empty(2 * frequencies * size)
        self._pairs: list[Tensor] = []  # J x (2, N)
        self.rows = self._space  # (2 J, N)

    def of(self, angles: Tensor) -> Tensor:
        """(N,) to (2 J, N), valid until the next call."""
        if self.rows.shape[-1] != len(angles) or not self._pairs:
            self.rows = self._space[: len(self.signs) * len(angles)].view(-1, len(angles))
            self._pairs = list(self.rows.view(-1, 2, len(angles)))
        pairs = self._pairs
        torch.cos(angles, out=pairs[0][0])
        torch.sin(angles, out=pairs[0][1])
        if len(pairs) > 1:
            twice = 2 * pairs[0][0]
            torch.mul(pairs[0], twice, out=pairs[1])[0].sub_(1)
            for j in range(2, len(pairs)):
                torch.addcmul(pairs[j - 2], pairs[j - 1], twice, value=self._steps[j - 1], out=pairs[j])
        return self.rows


Where = tuple[int, slice, slice]  # a chunk: head, rows of the batch, queries


class FusedAttention(torch.autograd.Function):
    """Takes the fields of :class:`Operands`; once differentiable."""

    @staticmethod
    def forward(*operands: Any) -> Tensor:
        """(B, H, T, d)."""
        heads = _Heads(Operands(*operands))
        out = heads.q.new_empty(*heads.q.shape[:3], heads.v.shape[3])
        for where in heads.chunks:
            weights = heads.weights(where, heads.scores(where))
            torch.matmul(heads.drop(where, weights), heads.v[where[:2]], out=out[where])
        return out.transpose(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands and what came out."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Gradients of q, k, v, coefficients and scale."""
        if torch.is_grad_enabled():  # create_graph=True, torch.func
            raise RuntimeError("Fused attention is differentiable once; second derivatives need kernel='plain'")
        *operands, out = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            heads = _Heads(Operands(*operands))
            of_series = any(ctx.needs_input_grad[3:5])
            return *heads.gradients(grad.transpose(0, 1), out.transpose(0, 1), of_series), None, None


class _Heads:
    """One call's operands, heads first (H, B, ...), and what is done to one chunk of (b, t, K) scores."""

    def __init__(self, operands: Operands) -> None:
        q, k, v, coefficients, scale, allowed, kept = operands
        batch, heads, queries, keys = *q.shape[:3], k.shape[2]
        self.norm = q.shape[-1] ** -0.5
        self.q = (q.transpose(0, 1) * self.norm).contiguous()
        self.k, self.v = (x.transpose(0, 1).contiguous() for x in (k, v))
        self.allowed = None if allowed is None else allowed.expand(batch, heads, queries, keys).transpose(0, 1)
        self.kept = None if kept is None else kept.transpose(0, 1)
        self.scale = scale.tolist() if scale.device.type == "cpu" else scale.unbind()
        limit = CHUNK * torch.get_num_threads() if q.device.type == "cpu" else CHUNK_GPU
        rows = max(1, min(batch, limit // max(queries * keys, 1)))
        step = max(1, min(queries, limit // max(keys, 1)))
        self.chunks: list[Where] = [
            (h, slice(i, i + rows), slice(t, t + step))
            for h in range(heads)
            for i in range(0, batch, rows)
            for t in range(0, queries, step)
        ]
        frequencies = coefficients.shape[1] // 2
        self.waves = _Waves(frequencies, rows * step * keys, q)
        self.phi, self.slope = coefficients * self.waves.signs, derivative(coefficients) * self.waves.signs

    def scores(self, where: Where) -> Tensor:
        return self.q[where] @ self.k[where[:2]].transpose(1, 2)

    def weights(self, where: Where, scores: Tensor) -> Tensor:
        """Attention weights before dropout; leaves the scores' waves in ``self.waves.rows``."""
        waves = self.waves.of(scores.flatten() * self.scale[where[0]])
        logits = torch.addmm(scores.view(1, -1), self.phi[where[0], None], waves).view_as(scores)
        if self.allowed is None:
            return torch.softmax(logits, -1)
        forbidden = ~self.allowed[where]
        return torch.softmax(logits.masked_fill_(forbidden, float("-inf")), -1).masked_fill_(forbidden, 0)

    def drop(self, where: Where, weights: Tensor) -> Tensor:
        return weights if self.kept is None else weights * self.kept[where].to(weights.dtype)

    def gradients(self, grad: Tensor, out: Tensor, of_series: bool) -> list[Tensor | None]:
        """Gradients of q, k, v (B, H, ...), coefficients and scale; grad and out are (H, B, T, d)."""
        grad = grad.contiguous()
        inner = (grad * out).sum(-1, keepdim=True)  # (H, B, T, 1): sum over the keys of weight x its gradient
        by_q, by_k, by_v = (torch.zeros_like(x) for x in (self.q, self.k, self.v))
        by_series, by_scale = torch.zeros_like(self.phi), self.phi.new_zeros(len(self.phi))
        for where in self.chunks:
            h, keys = where[0], where[:2]
            scores = self.scores(where)
            weights = self.weights(where, scores)
            slope = (self.slope[h, None] @ self.waves.rows).view_as(scores)  # dPhi/dx
            by_v[keys] += self.drop(where, weights).transpose(1, 2) @ grad[where]
            by_logits = self.drop(where, grad[where] @ self.v[keys].transpose(1, 2))
            by_logits = by_logits.sub_(inner[where]).mul_(weights)
            if of_series:
                by_series[h] += torch.mv(self.waves.rows, by_logits.view(-1))
            by_angles = slope.mul_(by_logits)
            if of_series:
                by_scale[h] += torch.dot(by_angles.view(-1), scores.view(-1))
            by_scores = by_logits.add_(by_angles.mul_(self.scale[h]))
            torch.matmul(by_scores, self.k[keys], out=by_q[where])
            by_k[keys] += by_scores.transpose(1, 2) @ self.q[where]
        own = [by_series * self.waves.signs, by_scale] if of_series else [None, None]
        return [by_q.mul_(self.norm).transpose(0, 1), by_k.transpose(0, 1), by_v.transpose(0, 1), *own]
