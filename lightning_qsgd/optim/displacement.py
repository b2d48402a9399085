"""Gradients at displaced weights: by measured bits (MeasuredDisplacement), or uphill (SharpnessAware, its control).

With measured bits the gradient is taken at theta + r * d and applied to theta. If d has mean 0, this is randomized
smoothing (the gradient of the loss averaged over the displacements), whatever the source of d. The sources "sign" and
"gaussian" therefore show whether measuring a circuit adds anything. arXiv 2511.01918 mentions "evaluating multiple
parameter configurations", but its equations do not contain it.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors
from torch.nn.functional import pad

from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation
from lightning_qsgd.optim.coordinates import cuts, is_dtensor, put
from lightning_qsgd.optim.live_circuit import LiveCircuitPerturbation
from lightning_qsgd.optim.perturbation import require

Source = Literal["circuit", "hadamard", "sign", "gaussian"]
Bias = Literal["centred", "antithetic", "none"]
CHUNK = 2**20  # coordinates displaced at once; bounds the memory in addition to the exact copies


class MeasuredDisplacement:
    """Displace weights by r * d before a gradient, and restore the exact ones afterwards.

    All ranks of a distributed run use the same displacement. Layers with running statistics see the displaced weights.

    Args:
        radius: r, at least 0: a number, or a function of the optimizer's step (from 0).
        relative: if True (default), r is a multiple of each tensor's root mean square, and a tensor of zeros does not
            move. If False, r is in units of the weights.
        copies: number of gradients at different displacements that ``step(closure)`` averages, at least 1. Default: 1.
        source: source of d:

            - "circuit" (default): each tensor is flattened in C order, padded with angle 0, and cut into blocks of
              num_qubits. The circuit with angles pi * theta is measured once per block and gives bits b;
            - "hadamard": qubits measured after one H gate each, which are fair coins like "sign";
            - "sign": -1 or 1 with equal probability;
            - "gaussian": standard normal numbers.
        circuit: the circuit that "circuit" measures, without ``center``. Default: the paper's circuit at depth 1 on 4
            qubits without CNOTs and rotations, for which P(b = 1) = (1 + sin(pi * theta)) / 2, the sine of Eq. 2.
        bias: treatment of the mean of a circuit's bits, s = E[2b - 1]:

            - "centred" (default): d = 1 - 2b + s, with mean 0 and variance 1 - s^2;
            - "antithetic": d = 1 - 2b in draw 2j and its negative in draw 2j + 1, with mean 0 over each pair. It
              applies to every source, and ``copies`` must be even;
            - "none": d = 1 - 2b, so that the gradient is taken around theta - r * s.

            For the other sources s = 0, and "centred" equals "none".
        seed: seed of d, at least 0, together with the step and the number of the draw. Default: 0.

    Attributes:
        draws: number of displacements since the optimizer's last step.
        last_radius: radius of the last displacement; 0 before the first one.

    Raises:
        ValueError: for an invalid value, or a circuit with ``center``.
    """

    def __init__(
        self,
        radius: float | Callable[[int], float],
        relative: bool = True,
        copies: int = 1,
        source: Source = "circuit",
        circuit: CircuitPerturbation | None = None,
        bias: Bias = "centred",
        seed: int = 0,
    ) -> None:
        if not callable(radius):
            _checked_radius(radius)
        require("copies", copies, copies >= 1, "at least 1")
        require("source", source, source in get_args(Source), f"one of {', '.join(get_args(Source))}")
        require("bias", bias, bias in get_args(Bias), f"one of {', '.join(get_args(Bias))}")
        require("seed", seed, seed >= 0, "at least 0")
        if circuit is not None and source != "circuit":
            raise ValueError(f"Invalid circuit: {circuit.identity()}; source={source!r} measures none, leave it null")
        if source == "circuit" and circuit is None:
            circuit = CircuitPerturbation(num_qubits=4, depth=1, entanglement="none", rotations="zero")
        if circuit is not None:
            require("circuit.center", circuit.center, circuit.center is None, "null: bias decides about the mean")
            if isinstance(circuit, LiveCircuitPerturbation):
                require("circuit.on_failure", circuit.on_failure, circuit.on_failure == "stop", "'stop'")
            circuit.joint |= circuit.entanglement != "none"
        self.radius, self.relative, self.copies = radius, relative, copies
        self.source: Source = source
        self.bias: Bias = bias
        self.circuit, self.seed = circuit, seed
        self.draws, self.last_radius = 0, 0.0
        self._saved: list[tuple[list[Tensor], list[Tensor]]] | None = None  # tensors, and their exact values

    def identity(self) -> str:
        """A text that must equal that of a loaded state; radius and copies may change."""
        circuit = "" if self.circuit is None else f", {self.circuit.identity()}"
        settings = f"source={self.source}, relative={self.relative}, bias={self.bias}, seed={self.seed}{circuit}"
        return f"MeasuredDisplacement({settings})"

    def prepare(self) -> str | None:
        """Do the circuit's one-time work, unless it is done. Returns a line that reports it, or None."""
        return None if self.circuit is None else self.circuit.prepare()

    def radius_at(self, step: int) -> float:
        """The radius of an optimizer step.

        Raises:
            ValueError: if a schedule returns a negative or infinite number.
        """
        return _checked_radius(self.radius(step) if callable(self.radius) else self.radius)

    @property
    def active(self) -> bool:
        """Whether weights are displaced."""
        return self._saved is not None

    @torch.no_grad()
    def displace(self, params: Sequence[Tensor], step: int, draw: int = 0) -> None:
        """Add r * d to the weights in place, rounded to their dtype, and keep exact copies.

        Args:
            params: tensors of any shape, strides, device and floating dtype. Those that need no gradient do not move.
            step: number of the optimizer step, at least 0.
            draw: number of the displacement within the step, at least 0. Default: 0.

        Raises:
            RuntimeError: if the weights are already displaced.
            ValueError: for sharded or complex weights, or an invalid radius of the schedule.
        """
        if self.active:
            raise RuntimeError("The weights are displaced already; restore() them before the next displacement")
        params = [p for p in params if p.requires_grad and p.numel()]
        _check(params)
        self.last_radius = radius = self.radius_at(step)
        self._saved = []
        self.draws += 1
        if not radius:
            return
        pair = draw // 2 if self.bias == "antithetic" else draw
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.seed, spawn_key=(step, pair))))
        sign = -1.0 if self.bias == "antithetic" and draw % 2 else 1.0
        try:
            for number, group in enumerate(alike(params)):
                flat = torch.cat([p.detach().reshape(-1) for p in group])
                saved = list(_unflatten_dense_tensors(flat, group))
                self._saved.append((group, saved))
                self._displace(group, saved, flat, radius * sign, rng, (step, pair, number))
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the exact weights, if any are displaced."""
        for params, saved in self._saved or ():
            torch._foreach_copy_(params, saved)  # pyright: ignore[reportPrivateImportUsage]
        self._saved = None

    @contextmanager
    def undisplaced(self) -> Iterator[None]:
        """Restore the exact weights within a block, and the displaced ones after it."""
        before = [(params, [p.detach().clone() for p in params]) for params, _ in self._saved or ()]
        saved = self._saved
        self.restore()
        try:
            yield
        finally:
            self._saved = saved
            with torch.no_grad():
                for params, values in before:
                    torch._foreach_copy_(params, values)  # pyright: ignore[reportPrivateImportUsage]

    def evaluate(self, closure: Callable[[], Any] | None, params: Sequence[Tensor], step: int) -> Any:
        """Compute the loss and the gradients of one optimizer step at displaced weights.

        Args:
            closure: zeroes the gradients, computes loss and gradients, and returns the loss. None: the gradients are
                already there.
            params: the optimizer's parameters. The gradients of ``copies`` displacements are averaged, and a missing
                one counts as 0. If the weights are already displaced, the closure is called once.
            step: number of the optimizer step.

        Returns:
            The mean loss, or None without a closure. The exact weights are restored.

        Raises:
            RuntimeError: without a closure, or with one that returns no loss, if the weights were not displaced since
                the last step, or still are.
            ValueError: for an odd number of copies with bias="antithetic".
        """
        if closure is None:
            self._check_draws()
            loss = None
        elif self.active:
            try:
                with torch.enable_grad():
                    loss = closure()
            finally:
                self.restore()
        else:
            loss = self._mean_of_copies(closure, params, step)
        assert not self.active
        self.draws = 0
        return loss

    def _check_draws(self) -> None:
        """Check that the gradients were taken at displaced weights."""
        if self.active:
            raise RuntimeError("step() was called at displaced weights; call it after the block of displaced()")
        if not self.draws:
            raise RuntimeError(
                "step() got gradients of weights that were not displaced; call step(closure), or compute the loss and "
                "gradients within `with optimizer.displaced():`"
            )
        pairs = self.bias == "antithetic"
        if self.draws % self.copies or (pairs and self.draws % 2):
            wanted = f"copies={self.copies}" + (", bias='antithetic'" if pairs else "")
            warnings.warn(
                f"step() got gradients of {self.draws} displacement(s), which {wanted} does not fit; use "
                "`with optimizer.displaced(draw):` for draw = 0, 1, ... of each step, or call step(closure)",
                stacklevel=6,
            )

    def _mean_of_copies(self, closure: Callable[[], Any], params: Sequence[Tensor], step: int) -> Any:
        copies = self.copies
        if self.bias == "antithetic":
            require("copies", copies, copies % 2 == 0, "even with bias='antithetic': its draws come in pairs")
        displaced_before = self.draws > 0
        losses, means = [], {}
        for draw in range(copies):
            self.displace(params, step, draw)
            try:
                with torch.enable_grad():
                    losses.append(closure())
            finally:
                self.restore()
            if losses[-1] is None:
                if displaced_before:  # gradients are there: Lightning gives step() a closure that does nothing
                    return None
                raise RuntimeError(
                    "The closure returned no loss: let it return the loss; or, if it computes none, compute loss and "
                    "gradients within `with optimizer.displaced():`"
                )
            if copies == 1:
                return losses[0]
            for p in params:
                if p.grad is not None:
                    means[p] = p.grad / copies if p not in means else means[p].add_(p.grad, alpha=1 / copies)
                    p.grad = None
        for p, mean in means.items():
            p.grad = mean
        return sum(losses) / copies

    def _displace(
        self,
        params: list[Tensor],
        saved: list[Tensor],
        flat: Tensor,
        radius: float,
        rng: np.random.Generator,
        key: tuple[int, ...],
    ) -> None:
        dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
        sizes = [p.numel() for p in params]
        scales = torch.full((len(params),), radius, dtype=dtype, device=flat.device)
        if self.relative:
            norms = torch._foreach_norm(saved, 2, None if flat.dtype == dtype else dtype)  # pyright: ignore[reportPrivateImportUsage]
            scales *= torch.stack(norms) / torch.tensor(sizes, dtype=dtype, device=flat.device).sqrt()
        factors = scales.unbind()
        low = 0
        for number, pieces in enumerate(cuts(sizes, self._block, self._chunk)):
            lengths = [length for _, _, length in pieces]
            theta = flat[low : low + sum(lengths)]
            low += len(theta)
            change = self._directions(theta.to(dtype), lengths, rng, (*key, number))
            torch._foreach_mul_(  # pyright: ignore[reportPrivateImportUsage]
                change.split(lengths), [factors[i] for i, _, _ in pieces]
            )
            write_pieces(params, pieces, change.add_(theta))

    @property
    def _block(self) -> int:  # coordinates that are measured together
        return 1 if self.circuit is None else self.circuit.num_qubits

    @property
    def _chunk(self) -> int:  # fewer if each block has the probabilities of many outcomes
        return CHUNK if self.circuit is None else min(CHUNK, 4 * CHUNK * self._block // 2**self._block)

    def _directions(
        self, theta: Tensor, lengths: list[int], rng: np.random.Generator, key: tuple[int, ...]
    ) -> Tensor:  # d, flat; a new tensor
        if self.source == "gaussian":
            generator = torch.Generator("cpu").manual_seed(int(rng.integers(2**63)))  # numpy's take three times as long
            return torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device="cpu").to(theta.device)
        if self.circuit is None:
            return _fair_signs(len(theta), rng).to(theta)
        n = self._block
        padding = [-length % n for length in lengths]
        if any(padding):
            theta = torch.cat([pad(x, (0, more)) for x, more in zip(theta.split(lengths), padding, strict=True)])
        angles = (theta * math.pi).view(-1, n)
        with torch.autocast(angles.device.type, enabled=False):
            bits, mean = self.circuit.single_shot(angles, rng, key)
        d = mean.sub_(bits).mul_(2) if self.bias == "centred" else bits.mul_(-2).add_(1)
        d = d.view(-1)
        if any(padding):
            d = torch.cat(d.split([length for run in zip(lengths, padding, strict=True) for length in run])[::2])
        return d

    def state_dict(self) -> dict[str, Any]:
        """The identity and the state of the circuit. Draws follow from the optimizer's step."""
        return {"identity": self.identity()} | ({} if self.circuit is None else self.circuit.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; the optimizer has compared the identities before."""
        if self.circuit is not None:
            self.circuit.load_state_dict(state)


def _checked_radius(radius: Any) -> float:
    require("radius", radius, 0 <= float(radius) < math.inf, "a finite number of at least 0, or a schedule of such")
    return float(radius)


def _check(params: Sequence[Tensor]) -> None:
    """Refuse tensors that cannot be displaced."""
    for p in params:
        if not p.is_floating_point():
            raise ValueError(f"Invalid parameter: {p.dtype}; a displacement needs real floating-point weights")
        if is_dtensor(p):
            raise ValueError("Invalid parameter: a DTensor; displacements do not support sharded weights, use DDP")


def alike(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors by device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in params:
        groups.setdefault((p.device, p.dtype), []).append(p)
    return list(groups.values())


def write_pieces(params: Sequence[Tensor], pieces: Sequence[tuple[int, int, int]], values: Tensor) -> None:
    """Set pieces of tensors to flat ``values`` in C order, rounded to the tensors' dtype."""
    whole = [params[number] for number, _, length in pieces if length == params[number].numel()]
    if len(whole) == len(pieces):
        torch._foreach_copy_(whole, _unflatten_dense_tensors(values, whole))  # pyright: ignore[reportPrivateImportUsage]
        return
    for (number, start, _), part in zip(pieces, values.split([length for *_, length in pieces]), strict=True):
        put(params[number], start, part)


def _fair_signs(size: int, rng: np.random.Generator) -> Tensor:
    """Random signs, (size,) int8 of -1 or 1, from one bit each."""
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-size // 8)), np.uint8), count=size)
    return 1 - 2 * torch.from_numpy(bits.view(np.int8))


class SharpnessAware(torch.optim.AdamW):
    """AdamW with the gradient at the point within ``radius`` where the loss is highest to first order.

    Each step evaluates the closure twice and takes about twice the time: at theta, and at theta + radius * g / ||g||,
    with the norm over all parameters (Foret, Kleiner, Mobahi and Neyshabur 2021, arXiv 2010.01412, Algorithm 1). Under
    Lightning it requires automatic optimization in full precision without gradient accumulation.

    Args:
        params: as for ``torch.optim.AdamW``.
        lr, betas, eps, weight_decay: likewise, but weight_decay is 0 by default.
        radius: Euclidean length of the displacement, at least 0. With 0 it is AdamW, but still evaluates the closure
            twice. Default: 0.05, as in the paper.

    Raises:
        ValueError: for a negative radius; in ``step`` without a closure.
        RuntimeError: in ``step``, if the closure leaves no gradients or adds to earlier ones.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        radius: float = 0.05,
    ) -> None:
        require("radius", radius, radius >= 0, "at least 0")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.radius = float(radius)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step.

        Args:
            closure: sets the gradients to None (``zero_grad()``), computes loss and gradients, and returns the loss.

        Returns:
            The loss at theta, before the step.
        """
        require("closure", closure, closure is not None, "a function that computes loss and gradients")
        assert closure is not None
        before = [p.grad for group in self.param_groups for p in group["params"]]
        with torch.enable_grad():
            loss = closure()
        after = [p.grad for group in self.param_groups for p in group["params"]]
        if any(old is not None and new is old for old, new in zip(before, after, strict=True)):
            raise RuntimeError(
                "The closure added to earlier gradients, but SharpnessAware cannot accumulate them over batches: train "
                "with accumulate_grad_batches=1, and call zero_grad(set_to_none=True) in your own closure"
            )
        displaced = self._displace()
        try:
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                for p, before in displaced:
                    p.copy_(before)
        with torch.no_grad():
            inspect.unwrap(torch.optim.AdamW.step)(self)  # unwrapped: torch adds the hooks to the step of each class
        return loss

    @torch.no_grad()
    def _displace(self) -> list[tuple[Tensor, Tensor]]:
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            raise RuntimeError("The closure left no gradients: it must call loss.backward()")
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in params]))
        before = [(p, p.clone()) for p in params]
        for p in params:
            p.add_(p.grad * (self.radius / (norm + 1e-12)))
        return before
