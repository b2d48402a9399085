"""torch's own AdamW on whole parameters or on pieces of them, and its direction."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lightning_qsgd.optim.blocks import Piece
from lightning_qsgd.optim.coordinates import flat, join, put
from lightning_qsgd.optim.sharding import local


class Lists(NamedTuple):
    """What torch's functional AdamW takes: parameters with gradient, and their state."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]  # empty without amsgrad
    steps: list[Tensor]

    def take(self, indices: Sequence[int]) -> "Lists":
        """Those of some parameters."""
        return Lists(*([tensors[i] for i in indices] if tensors else [] for tensors in self))

    def cut(self, pieces: Sequence[Piece]) -> "Lists":
        """Flat pieces, sharing memory where the tensors are contiguous, with steps of their own."""

        def flats(tensors: list[Tensor]) -> list[Tensor]:
            return [flat(local(tensors[p.place]), p.start, p.size) for p in pieces] if tensors else []

        steps = [self.steps[p.place].clone() for p in pieces]
        params, grads, m, v, v_max = map(flats, self[:-1])
        return Lists(params, grads, m, v, v_max, steps)

    def put_back(self, pieces: Sequence[Piece], changed: "Lists") -> None:
        """Write what :meth:`cut` gave and a step changed, where it does not share memory."""
        for whole, parts in zip(self[:-1], changed[:-1], strict=True):
            if whole and whole is not self.grads:
                for piece, part in zip(pieces, parts, strict=True):
                    if not (tensor := local(whole[piece.place])).is_contiguous():
                        put(tensor, piece.start, part)


def adam_step(group: Mapping[str, Any], lists: Lists, *, has_complex: bool = False) -> None:
    """One step of ``torch.optim.AdamW`` with a group's options, in place.

    torch's fused kernels run through memory and mix up coordinates where a tensor and its gradient lie in it
    differently (torch 2.13, CPU): tensors that are not contiguous take the plain loop.

    With bias_correction=False all parameters must be of one age: see :func:`common_age`.
    """
    lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
    beta1, beta2 = group["betas"]
    if not group["bias_correction"] and lists.steps:
        # AdamW corrects with c1 and c2; these values undo it.
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
    """How many steps all parameters have taken; 0 where there are none.

    Raises:
        RuntimeError: if they differ.
    """
    ages = {float(step) for step in steps}
    if len(ages) > 1:
        raise RuntimeError(
            f"bias_correction=False needs parameters that have taken equally many steps; this group has {sorted(ages)}"
            ". Put parameters without gradient in some steps into a group of their own"
        )
    return ages.pop() if ages else 0.0


def _corrections(group: Mapping[str, Any], step: float) -> tuple[float, float]:
    beta1, beta2 = group["betas"]
    return 1 - beta1**step, math.sqrt(1 - beta2**step)


def direction(group: Mapping[str, Any], lists: Lists) -> Tensor:
    """Adam's m / (sqrt(v) + eps) after its step, with the group's bias correction.

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
