"""The arithmetic of one step: torch's AdamW, and Q on the touched coordinates.

Letters are those of the README and of ``optim/reference.py``: alpha is ``lr``, lambda ``quantum_weight``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lightning_qsgd.optim.coordinates import Blocks, Piece, add, flat, gather, has_values, join, local, put, write
from lightning_qsgd.optim.param_groups import rate
from lightning_qsgd.optim.perturbation import Perturbation


def update(
    group: Mapping[str, Any],
    lists: "Lists",
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    sizes: Sequence[int],
    s: Tensor,
    pieces: Sequence[Piece] | None = None,
    *,
    need_u: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One step of a group, in place.

        theta <- (1 - alpha * w) * theta - alpha * (u + lambda * Q),    Q = s * g,  or s * u with scale="adam"

    Args:
        group: the parameter group. With target="gradient", u is computed from g + lambda * s * g.
        lists: the tensors that AdamW updates, or pieces of them.
        params, grads: the touched ones among them, whose first ``sizes`` coordinates are touched.
        sizes: number of touched coordinates of each.
        s: (sum(sizes),), on the device of the first of ``params``.
        pieces: the touched coordinates in ``lists``. Default: None, all of them, as flat pieces.
        need_u: whether the caller needs u. Default: False.

    Returns:
        The original g; the change that Q = s * g made to theta, or None for another Q; u, or None if it is not needed.
    """
    lam, w = group["quantum_weight"], group["weight_decay"]
    to_gradient, of_u = group["target"] == "gradient", group["scale"] == "adam"
    g = gather(grads, sizes)
    change = None
    if to_gradient:
        write(grads, sizes, g * (1 + lam * s))
    elif not of_u:
        sign = 1 if group["maximize"] else -1
        change = (s * g).mul_(sign * rate(group) * lam)
        if not w:  # without weight decay the order matters for rounding only, and 0.1.0 added first
            add(params, sizes, change)
    try:
        adam_step(group, lists)
    finally:
        if to_gradient:
            write(grads, sizes, g)
    u = direction(group, lists.cut(pieces) if pieces else lists) if need_u or of_u else None
    if of_u and u is not None:
        add(params, sizes, (s * u.to(s.dtype)).mul_(-float(group["lr"]) * lam))
    elif change is not None and w:
        add(params, sizes, change)
    return g, change, u


def ask(perturbation: Perturbation, blocks: Blocks, step: int) -> Tensor:
    """Evaluate a perturbation outside of autocast, in float32, or float64 if any tensor is.

    For tensors without values (meta, fake) the perturbation is not called, and s has no values either.

    Args:
        perturbation: the perturbation.
        blocks: the blocks to evaluate.
        step: number of the optimizer step, from 0.

    Returns:
        s of the blocks' own coordinates, (sum of sizes,), on the device of the first one.

    Raises:
        ValueError: if the shape of s is not that of the angles.
    """
    perturbation.layout = blocks.layout
    angles = blocks.angles(perturbation.num_qubits)
    if not has_values(angles):
        return blocks.own(torch.empty_like(angles).view(-1))
    device = angles.device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        s = perturbation(angles, step=step)
    if s.shape != angles.shape:
        name = type(perturbation).__name__
        raise ValueError(f"{name} returned shape {tuple(s.shape)} for angles {tuple(angles.shape)}")
    return blocks.own(s.reshape(-1))


class Lists(NamedTuple):
    """The arguments of torch's functional AdamW: parameters with gradient, and their state."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]  # empty without amsgrad
    steps: list[Tensor]

    def take(self, indices: Sequence[int]) -> "Lists":
        """Select some parameters."""
        return Lists(*([tensors[i] for i in indices] if tensors else [] for tensors in self))

    def cut(self, pieces: Sequence[Piece]) -> "Lists":
        """Flat pieces, which share memory if the tensors are contiguous, with copies of the steps."""

        def flats(tensors: list[Tensor]) -> list[Tensor]:
            return [flat(local(tensors[p.place]), p.start, p.size) for p in pieces] if tensors else []

        steps = [self.steps[p.place].clone() for p in pieces]
        params, grads, m, v, v_max = map(flats, self[:-1])
        return Lists(params, grads, m, v, v_max, steps)

    def keep_apart(self, pieces: Sequence[Piece]) -> None:
        """Copy expanded touched gradients, in which coordinates share memory, so that they can be written."""
        for piece in pieces:
            if 0 in (grad := self.grads[piece.place]).stride():
                self.grads[piece.place] = grad.contiguous()

    def put_back(self, pieces: Sequence[Piece], changed: "Lists") -> None:
        """Write the changed pieces from :meth:`cut` back to tensors that do not share memory with them."""
        for whole, parts in zip(self[:-1], changed[:-1], strict=True):
            if whole and whole is not self.grads:
                for piece, part in zip(pieces, parts, strict=True):
                    if not (tensor := local(whole[piece.place])).is_contiguous():
                        put(tensor, piece.start, part)


def adam_step(group: Mapping[str, Any], lists: Lists, *, has_complex: bool = False) -> None:
    """One step of ``torch.optim.AdamW`` with a group's options, in place.

    torch's fused kernels mix up coordinates if a tensor and its gradient have different strides (torch 2.13, CPU), so
    tensors that are not contiguous take the plain loop. With bias_correction=False all parameters must have the same
    age, see :func:`common_age`.
    """
    lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
    beta1, beta2 = group["betas"]
    if not group["bias_correction"] and lists.steps:
        # AdamW divides by c1 and c2; these values undo it.
        c1, c2 = _corrections(group, float(lists.steps[0]) + 1)
        lr, eps, weight_decay = lr * (c1 / c2), eps / c2, weight_decay * (c2 / c1)
    for part, fused in _by_kernel(lists, group["fused"]):
        adamw(
            *part,
            foreach=group["foreach"],
            fused=fused,
            has_complex=has_complex,
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            maximize=group["maximize"],
        )


def _by_kernel(lists: Lists, fused: bool | None) -> list[tuple[Lists, bool | None]]:
    if not fused:
        return [(lists, fused)]
    regular = [all(local(t).is_contiguous() for t in tensors) for tensors in zip(*lists[:4], strict=True)]
    if all(regular):
        return [(lists, True)]
    both = ([i for i, yes in enumerate(regular) if yes is kernel] for kernel in (True, False))
    return [(lists.take(indices), kernel) for indices, kernel in zip(both, (True, False), strict=True) if indices]


def common_age(steps: Iterable[Tensor | float]) -> float:
    """The number of steps that all parameters have taken, 0 without parameters.

    Raises:
        RuntimeError: if the numbers differ.
    """
    ages = {float(step) for step in steps}
    if len(ages) > 1:
        raise RuntimeError(
            f"bias_correction=False needs parameters that have taken equally many steps; this group has {sorted(ages)}"
            ". Put parameters that have no gradient in some steps into a separate group"
        )
    return ages.pop() if ages else 0.0


def _corrections(group: Mapping[str, Any], step: float) -> tuple[float, float]:
    beta1, beta2 = group["betas"]
    return 1 - beta1**step, math.sqrt(1 - beta2**step)


def direction(group: Mapping[str, Any], lists: Lists) -> Tensor:
    """Adam's direction m / (sqrt(v) + eps) after its step, with the bias correction of the group.

    Args:
        group: the parameter group.
        lists: flat pieces, from :meth:`Lists.cut`.

    Returns:
        (sum of sizes,), in the moments' dtype.
    """
    m = join(lists.exp_avgs)
    root = join(lists.max_exp_avg_sqs if group["amsgrad"] else lists.exp_avg_sqs).sqrt_()
    if group["bias_correction"]:
        c1, c2 = zip(*(_corrections(group, float(step)) for step in lists.steps), strict=True)
        if len(set(c1)) == 1:
            m.div_(c1[0])
            root.div_(c2[0])
        else:
            sizes = torch.tensor([len(part) for part in lists.exp_avgs], device="cpu")
            for values, correction in ((m, c1), (root, c2)):
                each = torch.tensor(correction, dtype=torch.float64, device="cpu").repeat_interleave(sizes)
                values.div_(each.to(values))
    return m.div_(root.add_(group["eps"]))
