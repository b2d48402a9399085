"""What ``test_step`` says of the classes of a batch, whatever module it is.

Shapes: B rows of a batch, C classes.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

IGNORED = -100  # the label that torch's losses leave out
_KINDS = ("logits", "probabilities", "predictions")


def scores_and_labels(outputs: Any, batch: Any, classes: int | None) -> tuple[Tensor, Tensor, int] | None:
    """Scores and labels of a batch; :class:`TestReport` says where they come from.

    Args:
        outputs: what ``test_step`` returned.
        batch: what it was given.
        classes: C, where it is known.

    Returns:
        Probabilities (B, C) float32 or predictions (B,) int64, labels (B,) int64, and C; without rows whose label is
        -100. None for a module that is no classifier.

    Raises:
        ValueError: if what is called logits, probabilities, predictions or labels is none.
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
    """Labels of the batch itself; the second of a tuple where it must be a classifier's."""
    if isinstance(batch, Mapping):
        return batch.get("labels")
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and classes is not None
    return batch[1] if is_pair and isinstance(batch[1], Tensor) and not batch[1].is_floating_point() else None


def _are_logits(outputs: Any, labels: Any, classes: int | None) -> TypeGuard[Tensor]:
    """Whether a tensor that has no name must be logits: it may be anything else, such as a loss."""
    if not isinstance(outputs, Tensor) or not isinstance(labels, Tensor) or labels.is_floating_point():
        return False
    fits = outputs.ndim == 2 and outputs.shape[1] > 1 and labels.shape == outputs.shape[:1]
    return fits and outputs.is_floating_point() and classes in (None, outputs.shape[1])


def _counted(scores: Tensor, labels: Tensor, kind: str, classes: int | None) -> tuple[Tensor, Tensor, int]:
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
    scores, labels = scores[kept], labels[kept].to(scores.device)
    for name, values in ({"labels": labels} | ({kind: scores} if kind == "predictions" else {})).items():
        wrong = values[(values != values.long()) | (values < 0) | (values >= classes)]
        if len(wrong):
            raise ValueError(
                f"test_step returned {shapes}: {name} must be integers from 0 to {classes - 1}, and "
                f"{wrong[0].item():g} is among them"
            )
    return scores if kind != "predictions" else scores.long(), labels.long(), classes


def _probabilities(scores: Tensor, kind: str) -> Tensor:
    """(B, C) probabilities, also of two classes of which (B,) scores say the second one."""
    if kind == "logits" and scores.ndim == 2:
        return scores.softmax(-1)
    if scores.ndim == 1:
        second = scores.sigmoid() if kind == "logits" else scores
        scores = torch.stack([1 - second, second], 1)
    if ((scores < -0.01) | (scores > 1.01)).any():
        raise ValueError("test_step returned probabilities outside of [0, 1]; if they are logits, call them so")
    return scores
