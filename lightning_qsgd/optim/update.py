"""The arithmetic of one step: Q of the touched coordinates, before and after Adam's own step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_qsgd.optim.coordinates import add, gather, write


class Touched(NamedTuple):
    """The touched coordinates of one group: the first ``sizes[i]`` of each parameter, in C order."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    sizes: list[int]
    numbers: list[int]  # of the parameters, counted over all groups


def adam_direction(states: Sequence[Mapping[str, Tensor]], group: Mapping[str, Any], sizes: Sequence[int]) -> Tensor:
    """Adam's m / (sqrt(v) + eps) of the first coordinates of some parameters, with the group's bias correction.

    Args:
        states: optimizer state of each parameter after the step: step, exp_avg, exp_avg_sq, max_exp_avg_sq.
        group: their parameter group.
        sizes: coordinates of each, C order.

    Returns:
        (sum(sizes),), in the moments' dtype.
    """
    m = gather([state["exp_avg"] for state in states], sizes)
    v = gather([state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"] for state in states], sizes)
    if group["bias_correction"]:
        beta1, beta2 = group["betas"]
        steps = torch.tensor([float(state["step"]) for state in states], dtype=torch.float64)
        repeats = torch.tensor(sizes)
        m = m / (1 - beta1**steps).repeat_interleave(repeats).to(m)
        v = v / (1 - beta2**steps).repeat_interleave(repeats).to(v)
    return m / (v.sqrt() + group["eps"])


def participates(group: Mapping[str, Any]) -> bool:
    """Whether a group's coordinates are among the touched ones at all."""
    return group["scheduled"] or group["quantum_weight"] != 0


def acts(group: Mapping[str, Any]) -> bool:
    """Whether a group's touched coordinates move in this step."""
    return group["quantum_weight"] != 0 and float(group["lr"]) != 0


def rate(group: Mapping[str, Any]) -> float:
    """What multiplies lambda * Q in the weights: lr, or with coupling="decoupled" its share of the initial one."""
    lr = float(group["lr"])
    return lr if group["coupling"] == "lr" else lr / group["initial_lr"]


def touched_coordinates(groups: Sequence[dict[str, Any]], scope: str, num_qubits: int) -> list[Touched]:
    """The coordinates that a scope names, per group; parameters without gradient and groups without weight have none.

    Args:
        groups: the optimizer's parameter groups.
        scope: "first_of_tensor", "first_of_model" or "all".
        num_qubits: coordinates of a block.

    Raises:
        RuntimeError: for sparse or complex gradients.
    """
    left = num_qubits
    touched, number = [], -1
    for group in groups:
        params, grads, sizes, numbers = [], [], [], []
        for p in group["params"]:
            number += 1
            gradient = p.grad
            if gradient is None or not participates(group):
                continue
            if gradient.is_sparse or p.is_complex():
                kind = "sparse" if gradient.is_sparse else "complex"
                raise RuntimeError(
                    f"SuperpositionalGradientDescent does not support {kind} gradients (tensor of shape "
                    f"{tuple(p.shape)}); give that parameter to another optimizer"
                )
            size = p.numel() if scope == "all" else min(p.numel(), num_qubits)
            if scope == "first_of_model":
                size = min(size, left)
                left -= size
            if size:
                params.append(p)
                grads.append(gradient)
                sizes.append(size)
                numbers.append(number)
        if params:
            touched.append(Touched(group, params, grads, sizes, numbers))
    return touched


def before_adam(t: Touched, s: Tensor) -> Tensor | None:
    """Q = s * g: into the gradient, or into the weights, which Adam's moments do not read.

    AdamW multiplies the weights by 1 - lr * weight_decay afterwards, so what is subtracted now is divided by it.
    Returns what changed gradients held before.
    """
    group = t.group
    if group["scale"] != "gradient" or not acts(group):
        return None
    gradients = gather(t.grads, t.sizes)
    if group["target"] == "gradient":
        write(t.grads, t.sizes, gradients * (1 + group["quantum_weight"] * s))
        return gradients
    lr, sign = float(group["lr"]), 1 if group["maximize"] else -1
    decay = 1 - lr * group["weight_decay"]
    if decay == 0:
        raise ValueError(f"Invalid weight_decay: {group['weight_decay']}; with lr {lr} it erases the weights")
    add(t.params, t.sizes, s * gradients * (sign * rate(group) * group["quantum_weight"] / decay))
    return None


def after_adam(t: Touched, s: Tensor, state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    """Q = s * u, once Adam's moments are this step's."""
    group = t.group
    if group["scale"] != "adam" or not acts(group):
        return
    direction = adam_direction([state[p] for p in t.params], group, t.sizes).to(s.dtype)
    add(t.params, t.sizes, s * direction * (-float(group["lr"]) * group["quantum_weight"]))


@contextmanager
def without_bias_correction(
    groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Mapping[str, Tensor]]
) -> Iterator[None]:
    """Rescale lr, eps and weight_decay of groups with bias_correction=False: torch's step is then the uncorrected one.

    With c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t): lr * c1 / c2, eps / c2, weight_decay * c2 / c1.

    Raises:
        RuntimeError: if the parameters of such a group have taken different numbers of steps.
    """
    originals = []
    for group in groups:
        if group["bias_correction"]:
            continue
        ages = {float(state[p]["step"]) if p in state else 0.0 for p in group["params"] if p.grad is not None}
        if len(ages) > 1:
            raise RuntimeError(
                f"bias_correction=False needs parameters that have taken equally many steps; this group has "
                f"{sorted(ages)}. Put parameters without gradient in some steps into a group of their own"
            )
        if ages:
            t, (beta1, beta2) = ages.pop() + 1, group["betas"]
            c1, c2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
            originals.append((group, group["lr"], group["eps"], group["weight_decay"]))
            group["lr"] = group["lr"] * (c1 / c2)
            group["eps"] = group["eps"] / c2
            group["weight_decay"] = group["weight_decay"] * (c2 / c1)
    try:
        yield
    finally:
        for group, lr, eps, weight_decay in originals:
            group["lr"], group["eps"], group["weight_decay"] = lr, eps, weight_decay
