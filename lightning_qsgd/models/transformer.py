"""The paper's transformer for sequences, as an encoder and as a classifier.

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


class TransformerEncoder(nn.Module):
    """A transformer that maps a sequence to one vector: embeddings, post-norm blocks, and the mean over the tokens.

    Args:
        shape: number of token ids, at least 1; or (T, F), for windows of T steps with F values each.
        embed_dim: embedding size D, a multiple of ``num_heads``. Default: 64.
        num_heads: heads per block, at least 1. Default: 4.
        feedforward_dim: width of the feed-forward layer, at least 1. Default: 128.
        num_layers: number of blocks, at least 1. Default: 2.
        dropout: probability after embedding, attention and feed-forward, in [0, 1). Default: 0.1.
        max_length: largest number of tokens in a sequence, at least 1; windows have T. The learned position embedding
            has as many rows, with an initial standard deviation of 0.02. Default: 512.
        attention: "classical", "quantum" (:class:`QuantumAttention` with its defaults), or a callable that takes
            (embed_dim, num_heads, dropout) and returns a module that maps x (B, T, D) and a padding mask (B, T) to
            (B, T, D), such as a ``functools.partial`` of :class:`QuantumAttention`. Default: "classical".
        quantum_layers: the blocks with this attention, 0 to num_layers - 1; the others are classical. Default: all.
        checkpoint_activations: whether training stores only the input of each block and recomputes the rest in the
            backward pass. Gradients are the same bit for bit; it takes the memory of one block instead of all, and a
            third to two thirds more time. Default: False.

    Attributes:
        out_features: D.

    Raises:
        ValueError: if a size is below 1, ``dropout`` is outside [0, 1), ``attention`` is unknown, or a block does not
            exist; in ``forward``, if a sequence has more than ``max_length`` tokens.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        embed_dim: int = 64,
        num_heads: int = 4,
        feedforward_dim: int = 128,
        num_layers: int = 2,
        dropout: float = 0.1,
        max_length: int = 512,
        attention: AttentionName | Callable[[int, int, float], nn.Module] = "classical",
        quantum_layers: Sequence[int] | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations, self.out_features = checkpoint_activations, embed_dim
        if not isinstance(shape, int) and len(shape) != 2:
            raise ValueError(f"Invalid inputs: a transformer takes tokens (T,) or windows (T, F), not {tuple(shape)}")
        vocab_size, max_length = (shape, max_length) if isinstance(shape, int) else (None, shape[0])
        sizes = {"vocab_size": vocab_size, "embed_dim": embed_dim, "num_heads": num_heads}
        sizes |= {"feedforward_dim": feedforward_dim, "num_layers": num_layers, "max_length": max_length}
        for name, size in sizes.items():
            if size is not None and size < 1:
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
        if isinstance(shape, int):
            self.embedding: nn.Module = nn.Embedding(shape, embed_dim)
        else:
            self.embedding = nn.Linear(shape[1], embed_dim)
        self.position = nn.Embedding(max_length, embed_dim)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim, num_heads, feedforward_dim, dropout, attention if layer in chosen else Attention
            )
            for layer in range(num_layers)
        )

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute one vector for each row.

        Args:
            tokens: (B, T) int64, ids below ``vocab_size``; or windows (B, T, F).
            padding_mask: (B, T) bool, True at padding. A row with nothing but padding is an empty text, whose vector is
                0. Default: no padding.

        Returns:
            (B, D).
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
            return x.mean(1)
        keep = (~padding_mask).unsqueeze(-1).to(x.dtype)
        return (x * keep).sum(1) / keep.sum(1).clamp(min=1)


class TransformerClassifier(TransformerEncoder):
    """A transformer for classification: a :class:`TransformerEncoder` of tokens, and a head.

    Args:
        vocab_size: number of token ids, at least 1.
        num_classes: number of classes C, at least 1.
        embed_dim, num_heads, feedforward_dim, num_layers, dropout, max_length: see :class:`TransformerEncoder`.
        head: called with (embed_dim, num_classes); returns a module that maps (B, D) to logits (B, C). Default:
            ``nn.Linear``.
        attention, quantum_layers, checkpoint_activations: see :class:`TransformerEncoder`.

    Raises:
        ValueError: as :class:`TransformerEncoder`.
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
        if num_classes < 1:
            raise ValueError(f"Invalid num_classes: {num_classes}; it must be at least 1")
        super().__init__(
            vocab_size,
            embed_dim,
            num_heads,
            feedforward_dim,
            num_layers,
            dropout,
            max_length,
            attention,
            quantum_layers,
            checkpoint_activations,
        )
        self.head, self.out_features = head(embed_dim, num_classes), num_classes

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Compute class scores.

        Args:
            tokens: (B, T) int64, ids below ``vocab_size``.
            padding_mask: (B, T) bool, True at padding. A row with nothing but padding gets the scores of an empty text.
                Default: no padding.

        Returns:
            (B, C) logits.
        """
        return self.head(super().forward(tokens, padding_mask))


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
