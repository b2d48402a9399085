"""One step of one group: Q = s * g or s * u on the touched coordinates, around torch's own AdamW."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.adam import Lists, adam_step, common_age, direction
from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import add, gather, write
from lightning_qsgd.optim.param_groups import rate
from lightning_qsgd.optim.sharding import local
from lightning_qsgd.optim.statistics import Tally


def step_few(group: Mapping[str, Any], lists: Lists, pieces: Sequence[Piece], s: Tensor, tally: Tally | None) -> None:
    """Adam on whole tensors at once, Q on a few coordinates of them (scopes first_of_tensor and first_of_model).

    Args:
        group: the parameter group.
        lists: of all its parameters with gradient.
        pieces: the touched coordinates: the first of each tensor.
        s: (sum of sizes,), on any device.
        tally: where statistics are collected, or None.
    """
    params, sizes = [p.param for p in pieces], [p.size for p in pieces]
    grads = [local(lists.grads[p.place]) for p in pieces]
    s = s.to(params[0].device)
    gradients = gather(grads, sizes)
    if (change := _before_adam(group, s, gradients)) is not None:
        add(params, sizes, change)
    to_gradient = group["target"] == "gradient"
    if to_gradient:
        write(grads, sizes, _perturbed_gradients(group, s, gradients))
    try:
        adam_step(group, lists)
    finally:
        if to_gradient:
            write(grads, sizes, gradients)
    if group["scale"] == "adam" or tally is not None:
        u = direction(group, lists.cut(pieces))
        if group["scale"] == "adam":
            add(params, sizes, _after_adam(group, s, u))
        if tally is not None:
            tally.add(group, pieces, s, gradients, u)


def step_in_chunks(
    group: Mapping[str, Any],
    lists: Lists,
    chunks: Iterable[Sequence[Piece]],
    modulation: Callable[[Sequence[Piece]], Tensor],
    tally: Tally | None,
) -> None:
    """Adam and Q together, chunk by chunk (scope all): no temporary is larger than a chunk, and a chunk stays in cache.

    Args:
        group: the parameter group.
        lists: of all its parameters with gradient.
        chunks: the coordinates, each once.
        modulation: s of a chunk, (sum of sizes,); asked before the chunk moves.
        tally: where statistics are collected, or None.
    """
    if not group["bias_correction"]:
        common_age(lists)
    for pieces in chunks:
        s, part = modulation(pieces), lists.cut(pieces)
        gradients = gather(part.grads, [p.size for p in pieces])
        if (change := _before_adam(group, s, gradients)) is not None:
            _add_to(part.params, change)
        if group["target"] == "gradient":
            perturbed = _perturbed_gradients(group, s, gradients).split([p.size for p in pieces])
            part = part._replace(grads=[new.to(old.dtype) for new, old in zip(perturbed, part.grads, strict=True)])
        adam_step(group, part)
        if group["scale"] == "adam" or tally is not None:
            u = direction(group, part)
            if group["scale"] == "adam":
                _add_to(part.params, _after_adam(group, s, u))
            if tally is not None:
                tally.add(group, pieces, s, gradients, u)
        lists.put_back(pieces, part)
    if lists.steps:
        torch._foreach_add_(lists.steps, 1)  # pyright: ignore[reportPrivateImportUsage]


def _before_adam(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor | None:
    """What to add to the weights before Adam's step, whose moments do not read them: Q = s * g, where it is that.

    AdamW multiplies the weights by 1 - lr * weight_decay afterwards, so what is added now is divided by it.
    """
    if group["scale"] != "gradient" or group["target"] != "update":
        return None
    lr, sign = float(group["lr"]), 1 if group["maximize"] else -1
    decay = 1 - lr * group["weight_decay"]
    if decay == 0:
        raise ValueError(f"Invalid weight_decay: {group['weight_decay']}; with lr {lr} it erases the weights")
    return (s * gradients).mul_(sign * rate(group) * group["quantum_weight"] / decay)


def _perturbed_gradients(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor:
    return gradients * (1 + group["quantum_weight"] * s)


def _after_adam(group: Mapping[str, Any], s: Tensor, u: Tensor) -> Tensor:
    """What to add to the weights once Adam's moments are this step's: Q = s * u."""
    return (s * u.to(s.dtype)).mul_(-float(group["lr"]) * group["quantum_weight"])


def _add_to(views: Sequence[Tensor], change: Tensor) -> None:
    torch._foreach_add_(list(views), change.split([len(view) for view in views]))  # pyright: ignore[reportPrivateImportUsage]
