"""Multi-head self-attention on torch's fused kernel.

Shapes: B batch, T tokens, D embed_dim, H heads, D/H per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(D / H)) V with learned projections.

    Args:
        embed_dim: D, a multiple of num_heads.
        num_heads: H.
        dropout: probability of dropping an attention weight while training, in [0, 1). Default: 0.

    Raises:
        ValueError: if embed_dim is no multiple of num_heads.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"Invalid num_heads: {num_heads}; embed_dim {embed_dim} must be a multiple of it")
        self.num_heads, self.dropout = num_heads, dropout
        self.project_in = nn.Linear(embed_dim, 3 * embed_dim)
        self.project_out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (B, T, D).
            padding_mask: (B, T) bool, True at padding, which no token attends to. Default: no padding.

        Returns:
            (B, T, D).
        """
        heads = self.project_in(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D/H)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        allowed = None if padding_mask is None else ~padding_mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, allowed, self.dropout if self.training else 0.0)
        return self.project_out(torch.flatten(out.transpose(1, 2), 2))
