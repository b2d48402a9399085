"""The methods of landscapes.py: plain ones, and gradients at displaced weights.

Each method has a learning rate, its schedule and one more setting. x has the shape (S seeds, N starts, D dimensions),
with independent rows. Displaced gradients use the classes of the package. "Adam" tunes beta1; other methods whose name
does not contain beta1 use the default, 0.9.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from grid_search import Axis
from torch import Tensor
from torch.optim import Adam, Optimizer

from lightning_qsgd.optim import (
    CircuitPerturbation,
    LinearSchedule,
    MeasuredDisplacement,
    SuperpositionalGradientDescent,
)

TINY = 1e-30  # avoids a division by 0
Schedule = Literal["constant", "cosine"]
Function = Callable[[Tensor], Tensor]
Step = Callable[[int], None]


@dataclass(frozen=True)
class Setting:
    """Tuned settings.

    Attributes:
        lr: Adam's learning rate, above 0.
        schedule: "constant", or "cosine": half a cosine from lr to 0.
        own: the method's own setting, above 0: see METHODS.
    """

    lr: float
    schedule: Schedule
    own: float


# ---- methods: (x, gradient, setting, steps, seed) to the optimizer and a function that takes step t


def adam(x: Tensor, gradient: Function, setting: Setting, steps: int, seed: int) -> tuple[Optimizer, Step]:
    """Adam with beta1 = 1 - own."""
    optimizer = Adam([x], lr=setting.lr, betas=(1 - setting.own, 0.999))

    def step(t: int) -> None:
        x.grad = gradient(x)
        optimizer.step()

    return optimizer, step


def langevin(
    x: Tensor, gradient: Function, setting: Setting, steps: int, seed: int, *, beta1: float = 0.9
) -> tuple[Optimizer, Step]:
    """Adam with Gaussian noise in the weights after each step, whose deviation falls linearly from own to 0."""
    optimizer, descend = adam(x, gradient, replace(setting, own=1 - beta1), steps, seed)
    generator = torch.Generator().manual_seed(seed)

    def step(t: int) -> None:
        descend(t)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x.add_(noise, alpha=setting.own * (1 - t / steps))

    return optimizer, step


def sam(
    x: Tensor, gradient: Function, setting: Setting, steps: int, seed: int, *, annealed: bool, beta1: float = 0.9
) -> tuple[Optimizer, Step]:
    """Sharpness-aware minimization (Foret et al., arXiv 2010.01412) of each row.

    Adam with the gradient at x + rho * g / |g|. rho is own, or falls linearly from own to 0. Two gradients a step.
    """

    def ascended(x: Tensor, rho: float) -> Tensor:
        g = gradient(x)
        return gradient(x + rho * g / g.norm(dim=-1, keepdim=True).clamp_min(TINY))

    optimizer = Adam([x], lr=setting.lr, betas=(beta1, 0.999))

    def step(t: int) -> None:
        x.grad = ascended(x, setting.own * (1 - t / steps) if annealed else setting.own)
        optimizer.step()

    return optimizer, step


@functools.cache
def circuit(depth: int, entanglement: Literal["linear", "none"]) -> CircuitPerturbation:
    """Five qubits, half of a row: no block holds weights of two rows. At depth 1 P(b = 1) = (1 + sin(pi theta)) / 2."""
    rotations = "aligned" if entanglement == "linear" else "zero"
    return CircuitPerturbation(5, depth, entanglement, rotations, decode_chain=entanglement == "linear")


def displaced(
    x: Tensor,
    gradient: Function,
    setting: Setting,
    steps: int,
    seed: int,
    *,
    source: Literal["circuit", "sign", "gaussian"],
    bias: Literal["centred", "none"] = "centred",
    depth: int = 1,
    entanglement: Literal["linear", "none"] = "none",
    beta1: float = 0.9,
) -> tuple[Optimizer, Step]:
    """Adam with gradients at x + radius * d; the radius falls linearly from own to 0."""
    displacement = MeasuredDisplacement(
        radius=LinearSchedule(setting.own, 0.0, steps),
        relative=False,
        source=source,
        circuit=circuit(depth, entanglement) if source == "circuit" else None,
        bias=bias,
        seed=seed,
    )
    optimizer = SuperpositionalGradientDescent(
        [x], setting.lr, (beta1, 0.999), quantum_weight=0.0, displacement=displacement
    )

    def closure() -> float:
        x.grad = gradient(x.detach())
        return 0.0

    def step(t: int) -> None:
        optimizer.step(closure)

    return optimizer, step


@dataclass(frozen=True)
class Method:
    """A method of descent.

    Attributes:
        name: of it.
        make: (x, gradient, setting, steps, seed) to an optimizer, whose lr may be changed between steps, and a function
            that takes step t (from 0, without autograd).
        own: its own setting's axis.
        gradients_per_step: 1, or 2.
    """

    name: str
    make: Callable[[Tensor, Function, Setting, int, int], tuple[Optimizer, Step]]
    own: Axis
    gradients_per_step: int = 1


RADIUS = Axis("radius", 0.5)
ENTANGLED = functools.partial(displaced, source="circuit", depth=2, entanglement="linear")
METHODS = (
    Method("Adam, beta1 0.9", adam, Axis("1 - beta1", 0.1, count=1)),
    Method("Adam", adam, Axis("1 - beta1", 1 / 9, limit=1.0)),
    Method("Langevin", langevin, Axis("noise", 0.1)),
    Method("SAM", functools.partial(sam, annealed=False), Axis("rho", 0.5), 2),
    Method("SAM, annealed", functools.partial(sam, annealed=True), Axis("rho", 0.5), 2),
    Method("Gaussian", functools.partial(displaced, source="gaussian"), RADIUS),
    Method("sign", functools.partial(displaced, source="sign"), RADIUS),
    Method("circuit", functools.partial(displaced, source="circuit"), RADIUS),
    Method("circuit, not centred", functools.partial(displaced, source="circuit", bias="none"), RADIUS),
    Method("circuit, entangled", ENTANGLED, RADIUS),
    Method("Langevin, beta1 0", functools.partial(langevin, beta1=0.0), Axis("noise", 0.1)),
    Method("SAM, beta1 0", functools.partial(sam, annealed=False, beta1=0.0), Axis("rho", 0.5), 2),
    Method("SAM, annealed, beta1 0", functools.partial(sam, annealed=True, beta1=0.0), Axis("rho", 0.5), 2),
    Method("Gaussian, beta1 0", functools.partial(displaced, source="gaussian", beta1=0.0), RADIUS),
    Method("sign, beta1 0", functools.partial(displaced, source="sign", beta1=0.0), RADIUS),
    Method("circuit, beta1 0", functools.partial(displaced, source="circuit", beta1=0.0), RADIUS),
)
