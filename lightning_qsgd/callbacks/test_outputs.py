"""What test_step returned: scores and labels, or numbers; checked, and found in an output or its batch.

Shapes: B rows of a batch, C classes, K targets.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -100  # the label that torch's losses ignore
_KINDS = ("logits", "probabilities", "predictions")
_COLUMNS = ("id", "file", "text")


class Scores(NamedTuple):
    """Scores of classes and labels, without rows whose label is -100.

    Attributes:
        scores: probabilities (B, C) float32, or predictions (B,) int64.
        labels: (B,) int64.
        num_classes: C.
        rows: (B,) int64, the places of these rows in the batch.
        batch_size: number of rows of the batch.
    """

    scores: Tensor
    labels: Tensor
    num_classes: int
    rows: Tensor
    batch_size: int


class Numbers(NamedTuple):
    """Predicted and true numbers, (B, K) float64, in the targets' own units.

    Attributes:
        predictions, targets: what test_step returned.
        persistence: the last observed values, or None if there are none.
    """

    predictions: NDArray[np.float64]
    targets: NDArray[np.float64]
    persistence: NDArray[np.float64] | None


def numbers_of(outputs: Any) -> Numbers | None:
    """Numbers of a batch, as :class:`TestReport` finds them.

    Args:
        outputs: output of ``test_step``. Vectors (B,) count as (B, 1).

    Raises:
        ValueError: if the shapes of predictions, targets and persistence differ, or are no (B, K).
    """
    if not isinstance(outputs, Mapping) or not {"predictions", "targets"} <= outputs.keys() or "labels" in outputs:
        return None
    names = ["predictions", "targets"] + ["persistence"] * (outputs.get("persistence") is not None)
    found = {name: torch.as_tensor(outputs[name]).detach() for name in names}
    if not found["predictions"].is_floating_point():  # classes
        return None
    shapes = {tuple(values.shape) for values in found.values()}
    if len(shapes) > 1 or found["targets"].ndim not in (1, 2) or not found["targets"].shape[1:].numel():
        told = ", ".join(f"{name} {tuple(values.shape)}" for name, values in found.items())
        raise ValueError(f"test_step returned {told}; all must be (B, K): K numbers for each row")
    arrays = [values.cpu().double().reshape(len(values), -1).numpy() for values in found.values()]
    return Numbers(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None)


def known_of(batch: Any, count: int) -> dict[str, list[Any]]:
    """The columns ``id``, ``file`` and ``text`` of a batch, those that have ``count`` values."""
    if not isinstance(batch, Mapping):
        return {}
    found = {name: batch[name] for name in _COLUMNS if name in batch}
    lists = {name: v.tolist() if isinstance(v, Tensor | np.ndarray) else v for name, v in found.items()}
    return {
        name: list(values)
        for name, values in lists.items()
        if isinstance(values, list | tuple) and len(values) == count
    }


def images_of(batch: Any, count: int) -> Tensor | None:
    """The inputs of a batch if they are ``count`` images (B, C, H, W): its ``inputs``, or the first of a tuple."""
    if isinstance(batch, Mapping):
        inputs = batch.get("inputs")
    else:
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else None
    fits = isinstance(inputs, Tensor) and inputs.ndim == 4 and len(inputs) == count
    return inputs if fits else None


def scores_and_labels(outputs: Any, batch: Any, classes: int | None) -> Scores | None:
    """Scores and labels of a batch, as :class:`TestReport` finds them.

    Args:
        outputs: output of ``test_step``.
        batch: the batch.
        classes: C if it is known, or None.

    Returns:
        The scores, or None if the module is no classifier.

    Raises:
        ValueError: if logits, probabilities, predictions or labels have invalid shapes or values.
    """
    kind = next((name for name in _KINDS if isinstance(outputs, Mapping) and name in outputs), None)
    if kind is None:
        inside = _labels_of(batch, classes)
        return _counted(outputs, inside, "logits", classes) if _are_logits(outputs, inside, classes) else None
    labels = outputs["labels"] if outputs.get("labels") is not None else _labels_of(batch, classes)
    if labels is None:
        raise ValueError(f"test_step returned {kind} without labels; return {{{kind!r}: ..., 'labels': ...}}")
    return _counted(torch.as_tensor(outputs[kind]), torch.as_tensor(labels), kind, classes)


def _labels_of(batch: Any, classes: int | None) -> Any:
    """Labels in the batch: the entry of a dict, or the second of a tuple if the number of classes is known."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and classes is not None
    return batch[1] if is_pair and isinstance(batch[1], Tensor) and not batch[1].is_floating_point() else None


def _are_logits(outputs: Any, labels: Any, classes: int | None) -> TypeGuard[Tensor]:
    """Whether an output without a name must be logits; it could be anything, such as a loss."""
    if not isinstance(outputs, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point():
        return False
    fits = outputs.ndim == 2 and outputs.shape[1] > 1 and labels.shape == outputs.shape[:1]
    return fits and outputs.is_floating_point() and classes in (None, outputs.shape[1])


def _counted(scores: Tensor, labels: Tensor, kind: str, classes: int | None) -> Scores:
    shapes = f"{kind} {tuple(scores.shape)} and labels {tuple(labels.shape)}"
    scores, labels = (t[:, 0] if t.ndim == 2 and t.shape[1] == 1 else t for t in (scores, labels))
    if scores.ndim not in (1, 2) or (kind == "predictions" and scores.ndim != 1) or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"test_step returned {shapes}; they must be {'(B,)' if kind == 'predictions' else '(B, C)'} and (B,)"
        )
    if kind != "predictions":
        scores = _probabilities(scores.float(), kind)
        classes = scores.shape[1]
    elif classes is None:
        raise ValueError("test_step returned predictions; give the data module num_classes, or labels: their names")
    kept = labels != IGNORED
    scores, labels = scores[kept.to(scores.device)], labels[kept].to(scores.device)
    for name, values in ({"labels": labels} | ({kind: scores} if kind == "predictions" else {})).items():
        wrong = values[(values != values.long()) | (values < 0) | (values >= classes)]
        if len(wrong):
            raise ValueError(
                f"test_step returned {shapes}: {name} must be integers from 0 to {classes - 1}, and "
                f"{wrong[0].item():g} is among them"
            )
    scores = scores if kind != "predictions" else scores.long()
    return Scores(scores.detach(), labels.long(), classes, kept.nonzero()[:, 0], len(kept))


def _probabilities(scores: Tensor, kind: str) -> Tensor:
    """Probabilities (B, C), also from scores (B,) of the second of two classes."""
    if kind == "logits" and scores.ndim == 2:
        return scores.softmax(-1)
    if scores.ndim == 1:
        second = scores.sigmoid() if kind == "logits" else scores
        scores = torch.stack([1 - second, second], 1)
    if ((scores < -0.01) | (scores > 1.01)).any():
        raise ValueError("test_step returned probabilities outside of [0, 1]; if they are logits, name them logits")
    return scores
