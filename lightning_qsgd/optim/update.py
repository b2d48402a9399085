"""One step of one group: Q = s * g or s * u on the touched coordinates, around torch's own AdamW."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.adam import Lists, adam_step, common_age, direction
from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import add, gather, write
from lightning_qsgd.optim.large_steps import LargeSteps
from lightning_qsgd.optim.param_groups import rate
from lightning_qsgd.optim.sharding import local
from lightning_qsgd.optim.statistics import Tally


def step_few(
    group: Mapping[str, Any], lists: Lists, pieces: Sequence[Piece], s: Tensor, tally: Tally | None, watch: LargeSteps
) -> None:
    """Adam on whole tensors at once, Q on a few coordinates of them (scopes first_of_tensor and first_of_model).

    Args:
        group: the parameter group.
        lists: of all its parameters with gradient.
        pieces: the touched coordinates: the first of each tensor.
        s: (sum of sizes,), on any device.
        tally: where statistics are collected, or None.
        watch: what looks at the size of Q in some steps.
    """
    params, sizes = [p.param for p in pieces], [p.size for p in pieces]
    grads = [local(lists.grads[p.place]) for p in pieces]
    s = s.to(params[0].device)
    gradients = gather(grads, sizes)
    change = _of_gradients(group, s, gradients)
    if change is not None and _is_early(group):
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
    part = lists.cut(pieces) if _needs_direction(group, tally, watch) else None
    if (late := _after_adam(group, pieces, part, s, gradients, change, tally, watch)) is not None:
        add(params, sizes, late)


def step_in_chunks(
    group: Mapping[str, Any],
    lists: Lists,
    chunks: Iterable[Sequence[Piece]],
    modulation: Callable[[Sequence[Piece]], Tensor],
    tally: Tally | None,
    watch: LargeSteps,
) -> None:
    """Adam and Q together, chunk by chunk (scope all): no temporary is larger than a chunk, and a chunk stays in cache.

    Args:
        group: the parameter group.
        lists: of all its parameters with gradient.
        chunks: the coordinates, each once.
        modulation: s of a chunk, (sum of sizes,); asked before the chunk moves.
        tally: where statistics are collected, or None.
        watch: what looks at the size of Q in some steps.
    """
    for pieces in chunks:
        s, part, sizes = modulation(pieces), lists.cut(pieces), [p.size for p in pieces]
        gradients = gather(part.grads, sizes)
        change = _of_gradients(group, s, gradients)
        if change is not None and _is_early(group):
            add(part.params, sizes, change)
        if group["target"] == "gradient":
            perturbed = _perturbed_gradients(group, s, gradients).split(sizes)
            part = part._replace(grads=[new.to(old.dtype) for new, old in zip(perturbed, part.grads, strict=True)])
        adam_step(group, part)
        if (late := _after_adam(group, pieces, part, s, gradients, change, tally, watch)) is not None:
            add(part.params, sizes, late)
        lists.put_back(pieces, part)
    if lists.steps:
        torch._foreach_add_(lists.steps, 1)  # pyright: ignore[reportPrivateImportUsage]


def refuse_mixed_ages(groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, Mapping[str, Any]]) -> None:
    """Check what a step without bias correction needs, before anything moves.

    Raises:
        RuntimeError: if the parameters of such a group have taken different numbers of steps.
    """
    for group in groups:
        if not group["bias_correction"]:
            common_age(state[p]["step"] if p in state else 0.0 for p in group["params"] if p.grad is not None)


def _perturbed_gradients(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor:
    return gradients * (1 + group["quantum_weight"] * s)


def _of_gradients(group: Mapping[str, Any], s: Tensor, gradients: Tensor) -> Tensor | None:
    """What Q = s * g adds to the weights; None where Q is something else."""
    if group["scale"] != "gradient" or group["target"] != "update":
        return None
    sign = 1 if group["maximize"] else -1
    return (s * gradients).mul_(sign * rate(group) * group["quantum_weight"])


def _is_early(group: Mapping[str, Any]) -> bool:
    """Whether Q = s * g is added before Adam's step. Without weight decay only rounding tells, and 0.1.0 rounded so."""
    return not group["weight_decay"]


def _needs_direction(group: Mapping[str, Any], tally: Tally | None, watch: LargeSteps) -> bool:
    return group["scale"] == "adam" or tally is not None or (watch.looks and group["target"] == "update")


def _after_adam(
    group: Mapping[str, Any],
    pieces: Sequence[Piece],
    part: Lists | None,
    s: Tensor,
    gradients: Tensor,
    change: Tensor | None,
    tally: Tally | None,
    watch: LargeSteps,
) -> Tensor | None:
    """What is still to be added to the weights once Adam's moments are this step's. Counts, and looks, if asked.

    ``part``: the pieces and their moments, needed where :func:`_needs_direction` says so.
    """
    u = direction(group, part) if part is not None and _needs_direction(group, tally, watch) else None
    if u is not None:
        if tally is not None:
            tally.add(group, pieces, s, gradients, u)
        if change is not None and watch.looks:
            watch(group, change, u)
        if group["scale"] == "adam":
            return (s * u.to(s.dtype)).mul_(-float(group["lr"]) * group["quantum_weight"])
    return None if _is_early(group) else change
