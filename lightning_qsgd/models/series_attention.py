"""Attention whose scores are shifted by a Fourier series of themselves: softmax(S + Phi(S)) V with S = Q K^T / sqrt(d).

Shapes: B batch, H heads, T queries, K keys, d numbers per head, J frequencies. The series of head h is
Phi(s) = sum_j a_j cos(j w s) + b_j sin(j w s), j = 1..J, with w the head's scale. (A constant would cancel in the
softmax.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

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
            to three times faster, keeps as much as explicit attention; needs a C++ compiler, and the first pass takes
            half a minute. Both are differentiable once. "plain": tensor operations, differentiable twice; costs time
            and memory. Within a function that is compiled as a whole, all are the same.

    Returns:
        (B, H, T, d), in the dtype of q.

    Raises:
        RuntimeError: if kernel is "compiled" and torch.compile finds no compiler.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, v.dtype), torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        kept = None
        if dropout > 0:  # drawn as torch's own attention draws it
            shape = (*q.shape[:3], k.shape[2])
            kept = torch.empty(shape, dtype=dtype, device=q.device).bernoulli_(1 - dropout).to(torch.uint8)
        series = coefficients.to(dtype), scale.to(dtype)
        operands = Operands(q.to(dtype), k.to(dtype), v.to(dtype), *series, allowed, kept, dropout)
        if kernel == "plain" or torch.compiler.is_compiling():
            out = _plain(*operands)
        else:
            out = _fused(*operands) if kernel == "fused" else _compiled(operands)
    return out.to(q.dtype)


@lru_cache
def _compiler() -> Any:
    return torch.compile(_plain, dynamic=True)  # one kernel for all shapes


def _compiled(operands: Operands) -> Tensor:
    try:
        return _compiler()(*operands)
    except Exception as error:
        if "compiler" not in str(error).lower():
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
    dropout: float,
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
        weights = weights * kept / (1 - dropout)
    return weights @ v


_fused: Any = FusedAttention.apply
_compiled_series: Any = CompiledSeries.apply
