"""Checks of batches before the model sees them.

Without them, torch's errors name neither value nor place, a GPU is unusable after an index out of range, and the loss
silently ignores labels of -100.

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_CLASSES = "a batch is a dict of tokens (B, T) int64, labels (B,) int64, and optionally padding_mask (B, T) bool"
_INPUTS = "a batch is a dict of inputs (B, ...) float32, and labels (B,) int64 or targets (B, K) float32"


def check_tokens(
    batch: Any,
    vocab_size: int,
    place: str,
    name: str = "tokens",
    masks: Mapping[str, bool] = MappingProxyType({"padding_mask": False}),
    contract: str = _CLASSES,
    way_out: str = "raise vocab_size of the data module, or --model.vocab_size",
) -> None:
    """Check token ids and their masks.

    Token ids must be int64 or int32, (B, T) with at least one row and one token, from 0 to ``vocab_size - 1``. Masks
    must be bool and have the same shape.

    Args:
        batch: a batch of a data module.
        vocab_size: number of token ids.
        place: names the batch in errors, such as "training batch 3".
        name: key of the token ids.
        masks: keys of the masks, and whether each is required.
        contract: describes a valid batch in errors.
        way_out: says in errors what to do if ids are too large.

    Raises:
        ValueError: if the batch is invalid; the message names value, place and way out.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"Invalid {place}: a {type(batch).__name__}; {contract}")
    _tensor(batch, name, place, contract)
    tokens = batch[name]
    if tokens.ndim != 2 or not tokens.numel() or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"Invalid {name}: {_kind(tokens)} in {place}; they must be int64 (B, T) with at least one row and one token"
        )
    for mask, needed in masks.items():
        if not needed and batch.get(mask) is None:
            continue
        _tensor(batch, mask, place, contract)
        if batch[mask].dtype != torch.bool or batch[mask].shape != tokens.shape:
            raise ValueError(
                f"Invalid {mask}: {_kind(batch[mask])} in {place}; it must be bool {tuple(tokens.shape)}, as {name}"
                + (", True at padding (of one that is 1 at text: mask == 0)" if "padding" in mask else "")
            )
    _check_range(name, tokens, vocab_size, place, way_out)


def check_inputs(batch: Any, shape: Sequence[int], place: str) -> None:
    """Check that ``inputs`` are floating point numbers (B, *shape), with at least one row.

    Args:
        batch: a batch of a data module.
        shape: shape of one row.
        place: names the batch in errors, such as "training batch 3".

    Raises:
        ValueError: if the batch is invalid; the message names value, place and way out.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"Invalid {place}: a {type(batch).__name__}; {_INPUTS}")
    _tensor(batch, "inputs", place, _INPUTS)
    inputs = batch["inputs"]
    if not inputs.is_floating_point() or inputs.shape[1:] != tuple(shape) or not len(inputs):
        rows = ", ".join(["B", *map(str, shape)])
        raise ValueError(
            f"Invalid inputs: {_kind(inputs)} in {place}; they must be floating point numbers ({rows}), at least one "
            "row; the data module's input_shape, or --model.input_shape, is the shape of one row"
        )


def check_targets(batch: Mapping[str, Any], num_targets: int, place: str, size: int) -> None:
    """Check that ``targets``, and ``persistence`` if it is there, are floating point numbers (B, K), or (B,) if K is 1.

    Args:
        batch: a batch that passed :func:`check_inputs` or :func:`check_tokens`.
        num_targets: number of targets K.
        place: names the batch in errors, such as "training batch 3".
        size: number of rows B.

    Raises:
        ValueError: if numbers are missing or invalid; the message names value, place and way out.
    """
    for name in ("targets", *(("persistence",) if "persistence" in batch else ())):
        _tensor(batch, name, place, _INPUTS)
        values = batch[name]
        shapes = [(size, num_targets), *([(size,)] if num_targets == 1 else [])]
        if not values.is_floating_point() or values.shape not in shapes:
            raise ValueError(
                f"Invalid {name}: {_kind(values)} in {place}; they must be floating point numbers ({size}, "
                f"{num_targets}), one row for each of the inputs"
            )


def check_labels(batch: Mapping[str, Any], num_classes: int, place: str, size: int) -> None:
    """Check that ``labels`` (B,) int64 hold a class, 0 to ``num_classes - 1``, for each row.

    Args:
        batch: a batch that passed :func:`check_inputs` or :func:`check_tokens`.
        num_classes: number of classes.
        place: names the batch in errors, such as "training batch 3".
        size: number of rows B.

    Raises:
        ValueError: if labels are missing or invalid; the message names value, place and way out.
    """
    _tensor(batch, "labels", place, _CLASSES if "tokens" in batch else _INPUTS)
    labels = batch["labels"]
    if labels.shape != (size,) or labels.dtype != torch.int64:
        raise ValueError(f"Invalid labels: {_kind(labels)} in {place}; they must be int64 ({size},), one class a row")
    _check_range("labels", labels, num_classes, place, "count classes from 0, and set num_classes of the data module")


def _tensor(batch: Mapping[str, Any], name: str, place: str, contract: str) -> None:
    if not isinstance(batch.get(name), Tensor):
        there = ", ".join(map(str, batch))
        raise ValueError(f"Invalid {place}: it has no tensor {name!r}; there are: {there}; {contract}")


def _check_range(name: str, values: Tensor, size: int, place: str, way_out: str) -> None:
    least, most = torch.stack(torch.aminmax(values)).tolist()  # one synchronization with a GPU
    if least >= 0 and most < size:
        return
    where = tuple(((values < 0) | (values >= size)).nonzero()[0].tolist())
    raise ValueError(
        f"Invalid {name}: {values[where].item()} in {name}[{', '.join(map(str, where))}] of {place}; they must be 0 to "
        f"{size - 1} (those of this batch are {least} to {most}): {way_out}"
    )


def _kind(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
