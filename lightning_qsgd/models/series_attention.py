"""Attention whose scores are shifted by a Fourier series of themselves: softmax(S + Phi(S)) V with S = Q K^T / sqrt(d).

Shapes: B batch, H heads, T queries, K keys, d numbers per head, J frequencies. The series of head h is
Phi(s) = sum_j a_j cos(j w s) + b_j sin(j w s), j = 1..J, with w the head's scale. (A constant would cancel in the
softmax.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 2**15  # scores handled at once by each thread: their powers stay in a core's cache
CHUNK_GPU = 2**22


def series_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    coefficients: Tensor,
    scale: Tensor,
    allowed: Tensor | None = None,
    dropout: float = 0.0,
    fused: bool = True,
) -> Tensor:
    """softmax(S + Phi(S)) V.

    In float32, or float64 if one of q, k, v is, outside of autocast.

    Args:
        q: (B, H, T, d), floating point.
        k, v: (B, H, K, d).
        coefficients: (H, 2 J): a_1, b_1, a_2, b_2, ...
        scale: (H,): w, radians per unit of score.
        allowed: broadcastable to (B, H, T, K), bool, True where a query sees a key. A query that sees none gets 0.
            Default: all.
        dropout: probability of dropping an attention weight, in [0, 1). Default: 0.
        fused: walk through the scores in chunks that fit the cache and, for the gradient, compute them again: no
            (T, K) tensor is kept but dropout's mask (of bool). Differentiable once. False: plain tensor operations,
            differentiable twice; torch.compile always takes these, because it fuses them itself. Default: True.

    Returns:
        (B, H, T, d), in the dtype of q.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        operands = [x.to(dtype) for x in (q, k, v, coefficients, scale)]
        kept = None
        if dropout > 0:  # drawn as torch's own attention draws it
            shape = (*q.shape[:3], k.shape[2])
            kept = torch.empty(shape, dtype=dtype, device=q.device).bernoulli_(1 - dropout).bool()
        if fused and not torch.compiler.is_compiling():
            return _Fused.apply(*operands, allowed, kept, dropout).to(q.dtype)
        return _plain(*operands, allowed, kept, dropout).to(q.dtype)


def evaluate_series(angles: Tensor, coefficients: Tensor) -> Tensor:
    """The series, in plain tensor operations.

    Args:
        angles: (..., H, *, *), floating point, radians.
        coefficients: (H, 2 J), same dtype.

    Returns:
        The shape of angles.
    """
    total = torch.zeros_like(angles)
    for wave, coefficient in zip(_waves(angles, coefficients.shape[1] // 2), coefficients.unbind(1), strict=True):
        total = total + coefficient[:, None, None] * wave
    return total


def _waves(angles: Tensor, frequencies: int) -> list[Tensor]:
    """cos x, sin x, cos 2x, ... by Chebyshev's recurrence."""
    before, now = (torch.ones_like(angles), torch.zeros_like(angles)), (angles.cos(), angles.sin())
    twice, waves = 2 * now[0], []
    for _ in range(frequencies):
        waves += now
        before, now = now, (twice * now[0] - before[0], twice * now[1] - before[1])
    return waves


def _derivative(coefficients: Tensor) -> Tensor:
    """Coefficients of a series' derivative by the angle, (H, 2 J)."""
    a, b = coefficients.unflatten(1, (-1, 2)).unbind(2)  # (H, J)
    j = torch.arange(1, a.shape[1] + 1, dtype=a.dtype, device=a.device)
    return torch.stack([j * b, -j * a], 2).flatten(1)


class _Series(torch.autograd.Function):
    """Phi of scores (B, H, T, K) for torch.compile, which fuses all this; keeps scores and coefficients only."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, coefficients: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(scores, coefficients, scale)
        return evaluate_series(scale[:, None, None] * scores, coefficients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        scores, coefficients, scale = ctx.saved_tensors
        angles = scale[:, None, None] * scores
        by_angles = grad * evaluate_series(angles, _derivative(coefficients))
        waves = _waves(angles, coefficients.shape[1] // 2)
        by_coefficients = torch.stack([(grad * wave).sum((0, 2, 3)) for wave in waves], 1)
        return by_angles * scale[:, None, None], by_coefficients, (by_angles * scores).sum((0, 2, 3))


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    coefficients: Tensor,
    scale: Tensor,
    allowed: Tensor | None,
    kept: Tensor | None,
    dropout: float,
) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if torch.compiler.is_compiling():
        logits = scores + _Series.apply(scores, coefficients, scale)
    else:
        logits = scores + evaluate_series(scale[:, None, None] * scores, coefficients)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    weights = logits.softmax(-1)
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0)  # where no key is seen: not NaN
    if kept is not None:
        weights = weights * kept / (1 - dropout)
    return weights @ v


class _Waves:
    """cos(j x) and sin(j x), j = 1..J, of angles x (N,), in memory that is used again.

    That memory stays in the cache, and allocating it anew would cost as much as filling it. Each step of Chebyshev's
    recurrence cos(j x) = 2 cos(x) cos((j-1) x) - cos((j-2) x) is one operation, because rows have signs that make its
    last term positive: + + - - + + ...; ``signs`` (2 J,) has each twice.
    """

    def __init__(self, frequencies: int, size: int, like: Tensor) -> None:
        signs = [1.0 - 2 * (j // 2 % 2) for j in range(frequencies)]
        self._steps = [a * b for a, b in zip(signs, signs[1:], strict=False)]
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


class _Fused(torch.autograd.Function):
    """Head by head and chunk by chunk; arguments as :func:`_plain`."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:  # type: ignore[override]
        heads = _Heads(*operands)
        out = torch.empty_like(heads.q)
        for where in heads.chunks:
            weights = heads.weights(where, heads.scores(where))
            torch.matmul(heads.drop(where, weights), heads.v[where[:2]], out=out[where])
        out = out.transpose(0, 1)
        ctx.save_for_backward(*operands[:-1], out)
        ctx.dropout = operands[-1]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("Fused attention is differentiable once; second derivatives need fused=False")
        *operands, out = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            heads = _Heads(*operands, ctx.dropout)
            of_series = any(ctx.needs_input_grad[3:5])
            return *heads.gradients(grad.transpose(0, 1), out.transpose(0, 1), of_series), None, None, None


class _Heads:
    """One call's operands, heads first (H, B, ...), and what is done to one chunk of (b, t, K) scores."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        coefficients: Tensor,
        scale: Tensor,
        allowed: Tensor | None,
        kept: Tensor | None,
        dropout: float,
    ) -> None:
        batch, heads, queries, keys = *q.shape[:3], k.shape[2]
        self.norm = q.shape[-1] ** -0.5
        self.q = (q.transpose(0, 1) * self.norm).contiguous()
        self.k, self.v = (x.transpose(0, 1).contiguous() for x in (k, v))
        self.allowed = None if allowed is None else allowed.expand(batch, heads, queries, keys).transpose(0, 1)
        self.kept, self.dropout = None if kept is None else kept.transpose(0, 1), dropout
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
        self.phi, self.slope = coefficients * self.waves.signs, _derivative(coefficients) * self.waves.signs

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
        return weights if self.kept is None else weights * self.kept[where] / (1 - self.dropout)

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
            by_scores = by_logits.add_(by_angles, alpha=self.scale[h])
            torch.matmul(by_scores, self.k[keys], out=by_q[where])
            by_k[keys] += by_scores.transpose(1, 2) @ self.q[where]
        own = [by_series * self.waves.signs, by_scale] if of_series else [None, None]
        return [(by_q.mul_(self.norm)).transpose(0, 1), by_k.transpose(0, 1), by_v.transpose(0, 1), *own]
