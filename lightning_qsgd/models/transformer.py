"""TransformerClassifier: the paper's model for sequence classification.

Paper: arXiv 2511.01918, Table II (sizes). It leaves position, norm and pooling open; the choices are stated below.
Shapes: B batch, T tokens, D embed_dim, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_qsgd.models.attention import Attention
from lightning_qsgd.models.quantum_attention import QuantumAttention

AttentionName = Literal["classical", "quantum"]


class TransformerClassifier(nn.Module):
    """A transformer for classification: embeddings, post-norm blocks, the mean over the tokens, and a head.

    Args:
        vocab_size: number of token ids, at least 1.
        num_classes: number of classes C, at least 1.
        embed_dim: embedding size D, a multiple of ``num_heads``. Default: 64.
        num_heads: heads per block, at least 1. Default: 4.
        feedforward_dim: width of the feed-forward layer, at least 1. Default: 128.
        num_layers: number of blocks, at least 1. Default: 2.
        dropout: probability after embedding, attention and feed-forward, in [0, 1). Default: 0.1.
        max_length: largest number of tokens in a sequence, at least 1. The learned position embedding has as many rows,
            with an initial standard deviation of 0.02. Default: 512.
        head: called with (embed_dim, num_classes); returns a module that maps (B, D) to logits (B, C). Default:
            ``nn.Linear``.
        attention: "classical", "quantum" (:class:`QuantumAttention` with its defaults), or a callable that takes
            (embed_dim, num_heads, dropout) and returns a module that maps x (B, T, D) and a padding mask (B, T) to
            (B, T, D), such as a ``functools.partial`` of :class:`QuantumAttention`. Default: "classical".
        quantum_layers: the blocks with this attention, 0 to num_layers - 1; the others are classical. Default: all.
        checkpoint_activations: whether training stores only the input of each block and recomputes the rest in the
            backward pass. Gradients are the same bit for bit; it takes the memory of one block instead of all, and a
            third to two thirds more time. Default: False.

    Raises:
        ValueError: if a size is below 1, ``dropout`` is outside [0, 1), ``attention`` is unknown, or a block does not
            exist; in ``forward``, if a sequence has more than ``max_length`` tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embed_dim: int = 64,
        num_heads: int = 4,
        feedforward_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.1,
        max_length: int = 512,
        head: Callable[[int, int], nn.Module] = nn.Linear,
        attention: AttentionName | Callable[[int, int, float], nn.Module] = "classical",
        quantum_layers: Sequence[int] | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        names = ("vocab_size", "num_classes", "embed_dim", "num_heads", "feedforward_dim", "num_layers", "max_length")
        for name in names:
            if (size := locals()[name]) < 1:
                raise ValueError(f"Invalid {name}: {size}; it must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"Invalid dropout: {dropout}; it must be in [0, 1)")
        if isinstance(attention, str):
            if attention not in get_args(AttentionName):
                raise ValueError(f"Invalid attention: {attention!r}; it must be 'classical', 'quantum' or callable")
            if attention == "classical" and quantum_layers is not None:
                raise ValueError(f"Invalid quantum_layers: {list(quantum_layers)}; attention is classical")
            attention = Attention if attention == "classical" else QuantumAttention
        if quantum_layers is not None and not quantum_layers:
            raise ValueError("Invalid quantum_layers: []; name at least one, or null for all")
        chosen = range(num_layers) if quantum_layers is None else quantum_layers
        if unknown := [layer for layer in chosen if not 0 <= layer < num_layers]:
            raise ValueError(f"Invalid quantum_layers: {unknown}; there are layers 0 to {num_layers - 1}")
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.position = nn.Embedding(max_length, embed_dim)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim, num_heads, feedforward_dim, dropout, attention if layer in chosen else Attention
            )
            for layer in range(num_layers)
        )
        self.head = head(embed_dim, num_classes)

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute class scores.

        Args:
            tokens: (B, T) int64, ids below ``vocab_size``.
            padding_mask: (B, T) bool, True at padding. A row with nothing but padding gets the scores of an empty text.
                Default: no padding.

        Returns:
            (B, C) logits.
        """
        length, most = tokens.shape[1], self.position.num_embeddings
        if length > most:
            raise ValueError(
                f"Invalid tokens: {length} per sequence; max_length is {most}: raise it or shorten the text"
            )
        x = self.dropout(self.embedding(tokens) + self.position.weight[:length])  # (B, T, D)
        if padding_mask is not None:
            empty = padding_mask.all(-1, keepdim=True)  # attention needs one key
            visible = padding_mask & ~empty
        else:
            visible = None
        again = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, visible, use_reentrant=False) if again else block(x, visible)
        if padding_mask is None:
            return self.head(x.mean(1))
        keep = (~padding_mask).unsqueeze(-1).to(x.dtype)
        return self.head((x * keep).sum(1) / keep.sum(1).clamp(min=1))


class TransformerBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + feedforward(x)); for the arguments see :class:`TransformerClassifier`."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        attention: Callable[[int, int, float], nn.Module] = Attention,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = attention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feedforward = nn.Sequential(
            nn.Linear(embed_dim, feedforward_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(feedforward_dim, embed_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map x (B, T, D) and a padding mask (B, T) to (B, T, D)."""
        x = self.norm1(x + self.dropout(self.attention(x, padding_mask)))
        return self.norm2(x + self.dropout(self.feedforward(x)))
