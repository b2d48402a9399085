"""Numbers that say what a perturbation did in one step, and how much of it there was."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.update import Touched, adam_direction, rate


def perturbation_statistics(
    touched: Sequence[Touched],
    modulations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """What the perturbation did in the step that was just taken.

    Args:
        touched: the touched coordinates of each group.
        modulations: s of each, flat.
        gradients: their gradients before the step, flat.
        groups: all parameter groups.
        state: the optimizer's state after the step.

    Returns:
        Scalars, float64 on the CPU:

        - norm_ratio: ||lambda * Q|| over the norm of Adam's step, over the whole model; with target="gradient",
          ||lambda * Q|| over the norm of the touched gradients (both);
        - norm_ratio_touched: the same, Adam's step taken over the touched coordinates only;
        - offset, spread: mean and standard deviation of s;
        - learning_rate_factor: 1 + lambda * offset, what the constant part of s does with scale="adam";
        - cosine: between Q and the gradient on the touched coordinates, in [-1, 1]; 0 where either vanishes;
        - touched: number of touched coordinates;
        - effective: how many of them have |s| > 0.01 and Q != 0;
        - quantum_weight: lambda of the first touched group.

        And ``s``: all modulations, flat, float32.
    """
    perturbation, direct, inside, cosine, norm_q, norm_g = (0.0,) * 6
    effective = 0
    in_gradient = False
    for t, s, g in zip(touched, modulations, gradients, strict=True):
        group, s, g = t.group, s.double(), g.double() * (-1 if t.group["maximize"] else 1)
        lr, weight = float(group["lr"]), group["quantum_weight"]
        u = adam_direction([state[p] for p in t.params], group, t.sizes).double()
        q = s * (u if group["scale"] == "adam" else g)
        in_gradient = in_gradient or group["target"] == "gradient"
        factor = 1.0 if group["target"] == "gradient" else rate(group)
        perturbation += float((factor * weight * q).square().sum())
        inside += float((lr * u).square().sum())
        cosine += float(q @ g)
        norm_q += float(q @ q)
        norm_g += float(g @ g)
        effective += int(((s.abs() > 0.01) & (q != 0)).sum())
    for group in groups:
        states = [state[p] for p in group["params"] if p.grad is not None and "step" in state.get(p, {})]
        if states:
            u = adam_direction(states, group, [x["exp_avg"].numel() for x in states])
            direct += float((float(group["lr"]) * u).square().sum())
    everything = torch.cat([s.flatten().float().cpu() for s in modulations])
    offset, weight = float(everything.mean()), touched[0].group["quantum_weight"]
    whole, part = (norm_g, norm_g) if in_gradient else (direct, inside)
    values = {
        "norm_ratio": math.sqrt(perturbation / whole) if whole else 0.0,
        "norm_ratio_touched": math.sqrt(perturbation / part) if part else 0.0,
        "offset": offset,
        "spread": float(everything.std(correction=0)),
        "learning_rate_factor": 1 + weight * offset,
        "cosine": cosine / math.sqrt(norm_q * norm_g) if norm_q and norm_g else 0.0,
        "touched": len(everything),
        "effective": effective,
        "quantum_weight": weight,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()} | {"s": everything}


def constant_equivalent(s: Tensor, group: Mapping[str, Any]) -> str | None:
    """What classical change a nearly constant s amounts to; None unless |mean| exceeds 3 spreads (and 0.01).

    Args:
        s: modulations, flat.
        group: the parameter group, which decides what s multiplies.
    """
    mean, spread = float(s.mean()), float(s.std(correction=0))
    if len(s) < 2 or abs(mean) <= max(3 * spread, 0.01):
        return None
    lr, weight = float(group["lr"]), group["quantum_weight"]
    factor = 1 + weight * mean
    if group["target"] == "gradient":
        return f"gradients {factor:.3g} times as large, to which Adam is nearly invariant"
    if group["scale"] == "adam":
        return f"AdamW with lr {lr * factor:.3g} ({factor:.3g} times as large)"
    return f"a plain gradient step of rate {rate(group) * weight * mean:.3g} beside AdamW's"


def constant_warning(s: Tensor, group: Mapping[str, Any]) -> str | None:
    """What to tell a user whose s hardly varies; None where it does. See :func:`constant_equivalent`."""
    if (equivalent := constant_equivalent(s, group)) is None:
        return None
    return (
        f"The perturbation is nearly constant: s has mean {float(s.mean()):.3f} and spread "
        f"{float(s.std(correction=0)):.3f}. On the touched coordinates it acts like {equivalent}. "
        "CircuitPerturbation's rotations='aligned' or center='zero' remove the constant part; "
        "ControlPerturbation('constant', ...) is its classical twin."
    )
