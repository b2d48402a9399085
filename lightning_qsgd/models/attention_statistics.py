"""What a series of the scores does to attention, in numbers."""

import torch
from torch import Tensor

from lightning_qsgd.models.score_function import evaluate_series

SEQUENCES = 16  # of a batch that are looked at


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
