"""Attention whose scores are shifted by a Fourier series of themselves: softmax(S + Phi(S)) V with S = Q K^T / sqrt(d).

Shapes: B batch, H heads, T queries, K keys, d numbers per head, J frequencies. The series of head h is
Phi(s) = sum_j a_j cos(j w s) + b_j sin(j w s), j = 1..J, with w the head's scale. (A constant would cancel in the
softmax.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_qsgd.models.fused_attention import FusedAttention, Operands
from lightning_qsgd.models.score_function import CompiledSeries, evaluate_series

Kernel = Literal["fused", "compiled", "plain"]


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
        kernel: how. "fused" (default): walk through the scores in chunks that fit the cache and, for the gradient,
            compute them again: no (T, K) tensor is kept but dropout's mask (of bytes). "compiled": torch.compile, two
            to three times faster; keeps one (T, K) tensor more than explicit attention (the scores), needs a C++
            compiler, and the first pass takes half a minute. Both are differentiable once. "plain": tensor operations,
            differentiable twice; costs time and memory. Within a function that is compiled as a whole, all are the
            same.

    Returns:
        (B, H, T, d), in the dtype of q.

    Raises:
        ValueError: for wrong shapes, an unknown kernel, or dropout outside of [0, 1).
        RuntimeError: if kernel is "compiled" and torch.compile finds no compiler.
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
        operands = Operands(q.to(dtype), k.to(dtype), values, *series, allowed, kept)
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
                f"Invalid {name}: shape {tuple(tensor.shape)}; beside q {tuple(q.shape)} it must be {shape}"
            )
    if kernel not in get_args(Kernel):
        raise ValueError(f"Invalid kernel: {kernel!r}; it must be one of {', '.join(get_args(Kernel))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"Invalid dropout: {dropout}; it must be in [0, 1)")


@lru_cache
def _compiler() -> Any:
    return torch.compile(_plain, dynamic=True)


def _compiled(operands: Operands) -> Tensor:
    try:
        # Calls with and without mask, dropout, gradient, a single row and so on are compiled each; torch's own limit of
        # 8 would silently leave the ninth kind uncompiled.
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


_fused: Any = FusedAttention.apply
_compiled_series: Any = CompiledSeries.apply
