"""Attention whose scores are shifted by a Fourier series of themselves: softmax(S + Phi(S)) V with S = Q K^T / sqrt(d).

Shapes: B batch, H heads, T queries, K keys, d features per head, J frequencies. The series of head h is
Phi(s) = sum_j a_j cos(j w s) + b_j sin(j w s), j = 1..J, where w is the head's scale. (A constant would cancel in the
softmax.) Coefficients (H, 2 J) are a_1, b_1, a_2, b_2, ...
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Kernel = Literal["fused", "compiled", "plain"]
CHUNK = 2**15  # scores that each thread handles at once
CHUNK_GPU = 2**22


class _Operands(NamedTuple):
    """The arguments of :func:`series_attention`, in one dtype."""

    q: Tensor  # (B, H, T, d)
    k: Tensor  # (B, H, K, d)
    v: Tensor  # (B, H, K, d)
    coefficients: Tensor  # (H, 2 J)
    scale: Tensor  # (H,)
    allowed: Tensor | None  # broadcastable to (B, H, T, K)
    kept: Tensor | None  # (B, H, T, K) uint8: 1 where a weight is not dropped


def series_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    coefficients: Tensor,
    scale: Tensor,
    allowed: Tensor | None = None,
    dropout: float = 0.0,
    kernel: Kernel = "fused",
) -> Tensor:
    """Attention with a Fourier series added to its scores: softmax(S + Phi(S)) V with S = Q K^T / sqrt(d).

    In head h, Phi(s) = sum_j a_j cos(j w s) + b_j sin(j w s), j = 1..J. It is computed outside autocast, in float32, or
    in float64 if q, k or v is.

    Args:
        q: (B, H, T, d), floating point.
        k, v: (B, H, K, d), floating point.
        coefficients: (H, 2 J): a_1, b_1, a_2, b_2, ... of each head.
        scale: (H,): w of each head, radians per unit of score.
        allowed: bool, broadcastable to (B, H, T, K), True where a query may see a key. A query that sees no key yields
            0. Default: all.
        dropout: probability of dropping an attention weight, in [0, 1). Default: 0.
        kernel: the implementation. All compute the same values; within a function that torch.compile compiles as a
            whole, they are the same code.

            - "fused" (default) processes the scores in chunks that fit the cache, and recomputes them for the gradient.
              It stores no (T, K) tensor except dropout's mask, in bytes. Differentiable once.
            - "compiled" uses torch.compile and is two to three times faster. It stores one (T, K) tensor more than
              explicit attention (the scores), needs a C++ compiler, and the first pass takes half a minute.
              Differentiable once.
            - "plain" uses tensor operations, which take more time and memory. Differentiable twice.

    Returns:
        (B, H, T, d), in the dtype of ``q``.

    Raises:
        ValueError: if a shape is wrong, ``kernel`` is unknown, or ``dropout`` is outside [0, 1).
        RuntimeError: if ``kernel`` is "compiled" and torch.compile finds no compiler.
    """
    _check(q, k, v, coefficients, scale, dropout, kernel)
    dtype = torch.float32
    for operand in (q, k, v):
        dtype = torch.promote_types(dtype, operand.dtype)
    with torch.autocast(q.device.type, enabled=False):
        kept = None
        if dropout > 0:  # drawn as torch's own attention draws it
            shape = (*q.shape[:3], k.shape[2])
            kept = torch.empty(shape, dtype=dtype, device=q.device).bernoulli_(1 - dropout).to(torch.uint8)
        series = coefficients.to(dtype), scale.to(dtype)
        values = v.to(dtype)
        if dropout > 0:
            values = values / (1 - dropout)  # instead of the weights that are not dropped
        operands = _Operands(q.to(dtype), k.to(dtype), values, *series, allowed, kept)
        if kernel == "plain" or torch.compiler.is_compiling():
            out = _plain(*operands)
        else:
            out = _fused(*operands) if kernel == "fused" else _compiled(operands)
    return out.to(q.dtype)


def _check(
    q: Tensor, k: Tensor, v: Tensor, coefficients: Tensor, scale: Tensor, dropout: float, kernel: Kernel
) -> None:
    batch, heads, _, size = q.shape
    keys = k.shape[2]
    waves = coefficients.shape[-1]
    for name, tensor, shape in (
        ("k", k, (batch, heads, max(keys, 1), size)),
        ("v", v, (batch, heads, keys, v.shape[3])),
        ("coefficients", coefficients, (heads, max(waves + waves % 2, 2))),
        ("scale", scale, (heads,)),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f"Invalid {name}: shape {tuple(tensor.shape)}; for q of shape {tuple(q.shape)} it must be {shape}"
            )
    if kernel not in get_args(Kernel):
        raise ValueError(f"Invalid kernel: {kernel!r}; it must be one of {', '.join(get_args(Kernel))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"Invalid dropout: {dropout}; it must be in [0, 1)")


@lru_cache
def _compiler() -> Any:
    return torch.compile(_plain, dynamic=True)


def _compiled(operands: _Operands) -> Tensor:
    try:
        # Each kind of call (with and without mask, dropout, gradient, a single row, ...) is compiled separately. After
        # torch's default limit of 8 kinds, further ones would silently run uncompiled.
        with torch._dynamo.config.patch(recompile_limit=64):
            return _compiler()(*operands)
    except Exception as error:
        from torch._inductor.exc import InvalidCxxCompiler

        if not isinstance(getattr(error, "inner_exception", error), InvalidCxxCompiler):
            raise
        raise RuntimeError(
            "Invalid kernel: 'compiled'; torch.compile found no C++ compiler (install g++ or clang, or use 'fused')"
        ) from error


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    coefficients: Tensor,
    scale: Tensor,
    allowed: Tensor | None,
    kept: Tensor | None,
) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if torch.compiler.is_compiling():
        logits = scores + _compiled_series(scores, coefficients, scale)
    else:
        logits = scores + evaluate_series(scale[:, None, None] * scores, coefficients)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    weights = logits.softmax(-1)
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0)  # where no key is seen: not NaN
    if kept is not None:
        weights = weights * kept
    return weights @ v


def evaluate_series(angles: Tensor, coefficients: Tensor) -> Tensor:
    """Evaluate each head's series with tensor operations.

    Args:
        angles: (..., H, *, *), floating point, radians.
        coefficients: (H, 2 J), same dtype.

    Returns:
        The values, in the shape of ``angles``.
    """
    total = torch.zeros_like(angles)
    for wave, coefficient in zip(waves_of(angles, coefficients.shape[1] // 2), coefficients.unbind(1), strict=True):
        total = total + coefficient[:, None, None] * wave
    return total


def waves_of(angles: Tensor, frequencies: int) -> list[Tensor]:
    """[cos x, sin x, cos 2x, sin 2x, ...] by Chebyshev's recurrence."""
    before, now = (torch.ones_like(angles), torch.zeros_like(angles)), (angles.cos(), angles.sin())
    twice, waves = 2 * now[0], []
    for _ in range(frequencies):
        waves += now
        before, now = now, (twice * now[0] - before[0], twice * now[1] - before[1])
    return waves


def derivative(coefficients: Tensor) -> Tensor:
    """Coefficients (H, 2 J) of the derivative of a series by its angle."""
    a, b = coefficients.unflatten(1, (-1, 2)).unbind(2)  # (H, J)
    j = torch.arange(1, a.shape[1] + 1, dtype=a.dtype, device=a.device)
    return torch.stack([j * b, -j * a], 2).flatten(1)


class _CompiledSeries(torch.autograd.Function):
    """Phi of scores (B, H, T, K). It saves only its inputs for the backward pass; torch.compile fuses the rest."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, coefficients: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        """Phi of the scores (B, H, T, K)."""
        ctx.save_for_backward(scores, coefficients, scale)
        return evaluate_series(scale[:, None, None] * scores, coefficients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Gradients of scores, coefficients and scale."""
        scores, coefficients, scale = ctx.saved_tensors
        angles = scale[:, None, None] * scores
        by_angles = grad * evaluate_series(angles, derivative(coefficients))
        waves = waves_of(angles, coefficients.shape[1] // 2)
        by_coefficients = torch.stack([(grad * wave).sum((0, 2, 3)) for wave in waves], 1)
        return by_angles * scale[:, None, None], by_coefficients, (by_angles * scores).sum((0, 2, 3))


class _FusedAttention(torch.autograd.Function):
    """Series attention in chunks of scores. It takes the fields of :class:`_Operands`, and is differentiable once."""

    @staticmethod
    def forward(*operands: Any) -> Tensor:
        """Attention (B, H, T, d)."""
        heads = _Heads(_Operands(*operands))
        out = heads.q.new_empty(*heads.q.shape[:3], heads.v.shape[3])
        for where in heads.chunks:
            weights = heads.weights(where, heads.scores(where))
            torch.matmul(heads.drop(where, weights), heads.v[where[:2]], out=out[where])
        return out.transpose(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save operands and output."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """Gradients of q, k, v, coefficients and scale."""
        if torch.is_grad_enabled():  # create_graph=True, torch.func
            raise RuntimeError("Fused attention is differentiable once; second derivatives need kernel='plain'")
        *operands, out = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            heads = _Heads(_Operands(*operands))
            of_series = any(ctx.needs_input_grad[3:5])
            return *heads.gradients(grad.transpose(0, 1), out.transpose(0, 1), of_series), None, None


Where = tuple[int, slice, slice]  # a chunk: head, rows of the batch, queries


class _Heads:
    """The operands of one call, heads first (H, B, ...), and the computation on one chunk of (b, t, K) scores."""

    def __init__(self, operands: _Operands) -> None:
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
        """Attention weights before dropout. The waves of the scores stay in ``self.waves.rows``."""
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


class _Waves:
    """cos(j x) and sin(j x), j = 1..J, of angles x (N,), in a reused buffer.

    The buffer stays in the cache, and allocating a new one would take as long as filling it. Each step of Chebyshev's
    recurrence cos(j x) = 2 cos(x) cos((j-1) x) - cos((j-2) x) is one operation, because the rows carry signs
    (+ + - - + + ...) that make its last term positive. ``signs`` (2 J,) has each of them twice.
    """

    def __init__(self, frequencies: int, size: int, like: Tensor) -> None:
        signs = [1.0 - 2 * (j // 2 % 2) for j in range(frequencies)]
        self._steps = [a * b for a, b in itertools.pairwise(signs)]
        self.signs = like.new_tensor(signs).repeat_interleave(2)
        self._space = like.new_empty(2 * frequencies * size)
        self._pairs: list[Tensor] = []  # J x (2, N)
        self.rows = self._space  # (2 J, N)

    def of(self, angles: Tensor) -> Tensor:
        """The waves (2 J, N) of angles (N,), valid until the next call."""
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


_fused: Any = _FusedAttention.apply
_compiled_series: Any = _CompiledSeries.apply
