"""Parts of a model, encoder -> body -> head, and the model that they make.

A part is called with the shape of one row of its inputs, such as (30,) for 30 features, (1, 8, 8) for an image or
(12, 1) for a window of 12 steps with one value, and maps (B, *shape) to (B, out_features).

Shapes: B batch, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_qsgd.models.quantum_body import QuantumBody, QuantumLSTM
from lightning_qsgd.models.transformer import TransformerEncoder

PartName = Literal["identity", "linear", "mlp", "cnn", "recurrent", "quantum_lstm", "transformer", "circuit"]
Part = Callable[[tuple[int, ...]], nn.Module]


class Identity(nn.Module):
    """The inputs themselves, flattened.

    Args:
        shape: shape of one row of inputs.

    Attributes:
        out_features: their number.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_features = prod(shape)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, *shape) to (B, out_features)."""
        return inputs.flatten(1)


class Linear(nn.Module):
    """A linear map of the flattened inputs.

    Args:
        shape: shape of one row of inputs.
        features: number of outputs, at least 1. Default: 6.

    Attributes:
        out_features: ``features``.

    Raises:
        ValueError: if ``features`` is below 1.
    """

    def __init__(self, shape: tuple[int, ...], features: int = 6) -> None:
        super().__init__()
        _check_sizes({"features": features})
        self.out_features = features
        self.map = nn.Linear(prod(shape), features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, *shape) to (B, features)."""
        return self.map(inputs.flatten(1))


class MLP(nn.Module):
    """Linear maps of the flattened inputs, with ReLU and dropout between them.

    Args:
        shape: shape of one row of inputs.
        hidden: widths of the hidden layers, each at least 1. Default: (32,).
        features: number of outputs, at least 1. Default: 6.
        dropout: probability of dropping a hidden value in training, in [0, 1). Default: 0.

    Attributes:
        out_features: ``features``.

    Raises:
        ValueError: if a width is below 1, or ``dropout`` is outside [0, 1).
    """

    def __init__(
        self, shape: tuple[int, ...], hidden: Sequence[int] = (32,), features: int = 6, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check_sizes({"features": features} | {f"hidden[{i}]": width for i, width in enumerate(hidden)})
        _check_dropout(dropout)
        self.out_features = features
        widths, layers = [prod(shape), *hidden], list[nn.Module]()
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, *shape) to (B, features)."""
        return self.layers(inputs.flatten(1))


class SmallCNN(nn.Module):
    """Convolutions of 3 x 3 pixels, each followed by ReLU and 2 x 2 max pooling, and a linear map.

    Args:
        shape: (channels, height, width) of an image; pooling halves both sizes, which must stay at least 1.
        channels: number of channels of each convolution, each at least 1. Default: (8, 16).
        features: number of outputs, at least 1. Default: 6.

    Attributes:
        out_features: ``features``.

    Raises:
        ValueError: if a size is below 1, or the inputs are not images that are large enough.
    """

    def __init__(self, shape: tuple[int, ...], channels: Sequence[int] = (8, 16), features: int = 6) -> None:
        super().__init__()
        _check_sizes({"features": features} | {f"channels[{i}]": count for i, count in enumerate(channels)})
        if len(shape) != 3:
            raise ValueError(f"Invalid inputs: a CNN takes images (channels, height, width), not {tuple(shape)}")
        height, width = (size >> len(channels) for size in shape[1:])
        if not height or not width:
            raise ValueError(
                f"Invalid channels: {list(channels)}; images of {shape[1]} x {shape[2]} pixels can be halved "
                f"{min(shape[1:]).bit_length() - 1} times: name at most as many, or enlarge the images"
            )
        self.out_features = features
        counts, layers = [shape[0], *channels], list[nn.Module]()
        for before, after in pairwise(counts):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(counts[-1] * height * width, features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (B, channels, height, width) to (B, features)."""
        return self.layers(inputs)


class Recurrent(nn.Module):
    """The last hidden state of a recurrent network over a window.

    Args:
        shape: (T, F): steps of a window, and values at each step.
        hidden: size of the hidden state, at least 1. Default: 16.
        cell: "gru" or "lstm". Default: "gru".

    Attributes:
        out_features: ``hidden``.

    Raises:
        ValueError: if ``hidden`` is below 1, ``cell`` is unknown, or the inputs are not windows.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int = 16, cell: Literal["gru", "lstm"] = "gru") -> None:
        super().__init__()
        _check_sizes({"hidden": hidden})
        if cell not in ("gru", "lstm"):
            raise ValueError(f"Invalid cell: {cell!r}; it must be 'gru' or 'lstm'")
        if len(shape) != 2:
            raise ValueError(f"Invalid inputs: a recurrent network takes windows (T, F), not {tuple(shape)}")
        self.out_features = hidden
        self.cell = (nn.GRU if cell == "gru" else nn.LSTM)(shape[1], hidden, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map windows (B, T, F) to (B, hidden)."""
        return self.cell(inputs)[0][:, -1]


#: The part of each name, with its default options.
PARTS: dict[str, Callable[..., nn.Module]] = {
    "identity": Identity,
    "linear": Linear,
    "mlp": MLP,
    "cnn": SmallCNN,
    "recurrent": Recurrent,
    "quantum_lstm": QuantumLSTM,
    "transformer": TransformerEncoder,
    "circuit": QuantumBody,
}


class ComposedModel(nn.Module):
    """A model of three parts: encoder -> body -> head.

    Args:
        shape: shape of one row of inputs; or the number of token ids, for tokens.
        outputs: number of outputs O.
        encoder: called with ``shape``; maps (B, *shape), or tokens (B, T) and a padding mask, to (B, D). Or a name; see
            ``PARTS``.
        body: called with (D,); maps (B, D) to (B, D'). Or a name.
        head: called with (D', outputs); maps (B, D') to (B, outputs). Default: ``nn.Linear``.

    An encoder or a body of your own tells its number of outputs by an attribute ``out_features``, as ``nn.Linear``
    does. If it has none, it is called with a row of zeros.

    Raises:
        ValueError: if a name is unknown, or a part does not fit its inputs.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...],
        outputs: int,
        encoder: PartName | Callable[[Any], nn.Module] = "identity",
        body: PartName | Part = "identity",
        head: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        try:
            self.encoder = _part("encoder", encoder)(shape)
        except TypeError as error:
            if not isinstance(shape, int):
                raise
            raise ValueError(
                f"Invalid encoder: it cannot be built for {shape} token ids ({error}); use transformer, or a class "
                "that takes their number"
            ) from error
        row = torch.zeros(1, 1, dtype=torch.int64) if isinstance(shape, int) else torch.zeros(1, *shape)
        features = _width("encoder", self.encoder, row)
        self.body = _part("body", body)((features,))
        self.head = head(_width("body", self.body, torch.zeros(1, features)), outputs)

    def forward(self, inputs: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map inputs (B, *shape), or tokens (B, T) with a padding mask (B, T), to (B, outputs)."""
        features = self.encoder(inputs) if padding_mask is None else self.encoder(inputs, padding_mask)
        return self.head(self.body(features))


def _part(name: str, part: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if not isinstance(part, str):
        return part
    if part not in PARTS:
        names = ", ".join(get_args(PartName))
        raise ValueError(f"Invalid {name}: {part!r}; it must be one of {names}, or a class_path")
    return PARTS[part]


@torch.no_grad()
def _width(name: str, part: nn.Module, row: Tensor) -> int:
    """The number of outputs of a part: what it says, or what it returns for a row."""
    if isinstance(features := getattr(part, "out_features", None), int):
        return features
    training = part.training
    outputs = part.eval()(row)
    part.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"Invalid {name}: {type(part).__name__} maps a row {tuple(row.shape)} to {found}; it must be (1, D), so "
            "flatten it"
        )
    return outputs.shape[1]


def _check_sizes(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"Invalid {name}: {size}; it must be at least 1")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"Invalid dropout: {dropout}; it must be in [0, 1)")
