"""One step of one group: Q = s * g or s * u on the touched coordinates, around torch's own AdamW."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.adam import Lists, adam_step, common_age, direction
from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import add, gather, write
from lightning_qsgd.optim.param_groups import acts, rate
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
        for piece in pieces:
            if 0 in lists.grads[piece.place].stride():  # expanded: several coordinates in one place of the memory
                lists.grads[piece.place] = lists.grads[piece.place].contiguous()
        grads = [local(lists.grads[p.place]) for p in pieces]
        write(grads, sizes, _perturbed_gradients(group, s, gradients))
    try:
        adam_step(group, lists)
    finally:
        if to_gradient:
            write(grads, sizes, gradients)
    if group["scale"] == "adam" or tally is not None:
        change = _after_adam(group, pieces, lists.cut(pieces), s, gradients, tally)
        if change is not None:
            add(params, sizes, change)


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
    for pieces in chunks:
        s, part, sizes = modulation(pieces), lists.cut(pieces), [p.size for p in pieces]
        gradients = gather(part.grads, sizes)
        if (change := _before_adam(group, s, gradients)) is not None:
            add(part.params, sizes, change)
        if group["target"] == "gradient":
            perturbed = _perturbed_gradients(group, s, gradients).split(sizes)
            part = part._replace(grads=[new.to(old.dtype) for new, old in zip(perturbed, part.grads, strict=True)])
        adam_step(group, part)
        if (change := _after_adam(group, pieces, part, s, gradients, tally)) is not None:
            add(part.params, sizes, change)
        lists.put_back(pieces, part)
    if lists.steps:
        torch._foreach_add_(lists.steps, 1)  # pyright: ignore[reportPrivateImportUsage]


def refuse_impossible_steps(groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, Mapping[str, Any]]) -> None:
    """Check what a step needs, before anything moves.

    Raises:
        ValueError: if weight_decay erases the weights, and with them the perturbation.
        RuntimeError: with bias_correction=False, if the parameters have taken different numbers of steps.
    """
    for group in groups:
        lr = float(group["lr"])
        if acts(group) and group["scale"] == "gradient" and lr * group["weight_decay"] == 1:
            raise ValueError(f"Invalid weight_decay: {group['weight_decay']}; with lr {lr} it erases the weights")
        if not group["bias_correction"]:
            common_age(state[p]["step"] if p in state else 0.0 for p in group["params"] if p.grad is not None)


def _before_adam(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor | None:
    """What to add to the weights before Adam's step, whose moments do not read them: Q = s * g, where it is that.

    AdamW multiplies the weights by 1 - lr * weight_decay afterwards, so what is added now is divided by it.
    """
    if group["scale"] != "gradient" or group["target"] != "update":
        return None
    sign, decay = 1 if group["maximize"] else -1, 1 - float(group["lr"]) * group["weight_decay"]
    return (s * gradients).mul_(sign * rate(group) * group["quantum_weight"] / decay)


def _perturbed_gradients(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor:
    return gradients * (1 + group["quantum_weight"] * s)


def _after_adam(
    group: Mapping[str, Any], pieces: Sequence[Piece], part: Lists, s: Tensor, gradients: Tensor, tally: Tally | None
) -> Tensor | None:
    """What to add to the weights once Adam's moments are this step's: Q = s * u, where it is that. Counts, if asked."""
    if group["scale"] != "adam" and tally is None:
        return None
    u = direction(group, part)
    if tally is not None:
        tally.add(group, pieces, s, gradients, u)
    if group["scale"] != "adam":
        return None
    return (s * u.to(s.dtype)).mul_(-float(group["lr"]) * group["quantum_weight"])
