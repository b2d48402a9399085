"""Multi-head attention on torch's fused kernel.

Shapes: B batch, T queries, K keys, D embed_dim, H heads, D/H features per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention, softmax(Q K^T / sqrt(D / H)) V, with learned projections.

    Args:
        embed_dim: embedding size D, a multiple of ``num_heads``.
        num_heads: number of heads H, at least 1.
        dropout: probability of dropping an attention weight in training, in [0, 1). Default: 0.

    Raises:
        ValueError: if ``embed_dim`` is not a multiple of ``num_heads``, or ``dropout`` is outside [0, 1).
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"Invalid num_heads: {num_heads}; embed_dim {embed_dim} must be a multiple of it")
        if not 0 <= dropout < 1:
            raise ValueError(f"Invalid dropout: {dropout}; it must be in [0, 1)")
        self.num_heads, self.dropout = num_heads, dropout
        self.project_in = nn.Linear(embed_dim, 3 * embed_dim)
        self.project_out = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        *,
        context: Tensor | None = None,
        allowed: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Compute attention.

        Args:
            x: (B, T, D), the queries; also keys and values unless ``context`` is given.
            padding_mask: (B, K) bool, True at padding, which is masked. Default: no padding.
            context: (B, K, D), keys and values for cross-attention. Default: ``x``.
            allowed: bool, broadcastable to (B, H, T, K), True where a query may see a key. Default: all.
            causal: whether query t sees only keys 0 to t. Default: False.

        Returns:
            (B, T, D). A query that sees no key yields 0 before the last projection.
        """
        if context is None:
            heads = self.project_in(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D/H)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        else:
            size = x.shape[-1]
            weight, bias = self.project_in.weight, self.project_in.bias
            q = F.linear(x, weight[:size], bias[:size]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            pair = F.linear(context, weight[size:], bias[size:]).unflatten(-1, (2, self.num_heads, -1))
            k, v = pair.permute(2, 0, 3, 1, 4)
        if padding_mask is not None:
            visible = ~padding_mask[:, None, None, :]
            allowed = visible if allowed is None else allowed & visible
        if causal:
            earlier = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril()
            allowed = earlier if allowed is None else allowed & earlier
        out = self.attend(q, k, v, allowed)
        return self.project_out(torch.flatten(out.transpose(1, 2), 2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Attention within the heads.

        Args:
            q: (B, H, T, D/H).
            k, v: (B, H, K, D/H).
            allowed: bool, broadcastable to (B, H, T, K), True where a query may see a key; None: all.

        Returns:
            (B, H, T, D/H).
        """
        return F.scaled_dot_product_attention(q, k, v, allowed, self.dropout if self.training else 0.0)
