"""What an optimizer needs to take its gradients at displaced weights."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.displacement import MeasuredDisplacement
from lightning_qsgd.optim.perturbation import require

_PREFIX = "displacement."  # of its state among the perturbation's
_NONE = "no displacement"


class DisplacedGradients(torch.optim.Optimizer):
    """Base of optimizers with a ``displacement``; a subclass sets the attributes and calls :meth:`_evaluate`.

    Attributes:
        displacement: the displacement, or None.
    """

    displacement: MeasuredDisplacement | None
    _step: int

    def displace(self, draw: int = 0) -> None:
        """Displace the weights for gradients of this step, until ``displacement.restore()``.

        Args:
            draw: number of the displacement within the step, such as the micro-batch's. Default: 0.

        Raises:
            RuntimeError: without a displacement, or if the weights are displaced already.
        """
        if self.displacement is None:
            raise RuntimeError("This optimizer has no displacement; give it displacement=MeasuredDisplacement(...)")
        self.displacement.displace(self._all_parameters(), self._step, draw)

    @contextmanager
    def displaced(self, draw: int = 0) -> Iterator[None]:
        """Displaced weights within the block, for loops without closure; see :meth:`displace`.

        Example: ``with optimizer.displaced(): loss_of(model(batch)).backward()``, and then ``optimizer.step()``.
        """
        self.displace(draw)
        try:
            yield
        finally:
            if self.displacement is not None:
                self.displacement.restore()

    def _all_parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        if self.displacement is None:
            with torch.enable_grad():
                return None if closure is None else closure()
        if closure is None and all(float(group["lr"]) == 0 for group in self.param_groups):
            return None  # nothing moves: torch's distributed state dicts call it so, to have a state at all
        return evaluate(closure, self.displacement, self._all_parameters(), self._step)

    def _displacement_state(self) -> dict[str, Any]:
        """Flat; its identity alone where there is none."""
        state = {"identity": _NONE} if self.displacement is None else self.displacement.state_dict()
        return {f"{_PREFIX}{name}": value for name, value in state.items()}

    def _check_displacement(self, state: dict[str, Any]) -> None:
        theirs = state.get(f"{_PREFIX}identity", _NONE)
        mine = _NONE if self.displacement is None else self.displacement.identity()
        if theirs != mine:
            raise ValueError(
                f"The state belongs to {theirs}, this optimizer has {mine}; resume with the same displacement, or "
                "start a new run"
            )

    def _load_displacement_state(self, state: dict[str, Any]) -> None:
        if self.displacement is not None:
            own = {name[len(_PREFIX) :]: value for name, value in state.items() if name.startswith(_PREFIX)}
            self.displacement.load_state_dict(own)


def evaluate(
    closure: Callable[[], Any] | None, displacement: MeasuredDisplacement, params: Sequence[Tensor], step: int
) -> Any:
    """The loss and the gradients of one optimizer step, at displaced weights.

    Args:
        closure: zeroes the gradients, computes loss and gradients, returns the loss; None: gradients are there.
        displacement: its ``copies`` displacements are averaged, unless the weights are displaced already: then the
            closure is called once.
        params: the optimizer's parameters. One without gradient at one displacement counts 0 there.
        step: the optimizer's step.

    Returns:
        The mean loss; None without closure. The weights are the exact ones afterwards.

    Raises:
        RuntimeError: without closure (or with one that returns no loss), if there was no displacement since the last
            step; or if one is still active.
        ValueError: for an odd number of copies with bias="antithetic".
    """
    if closure is None:
        pairs = displacement.bias == "antithetic"
        if displacement.active:
            raise RuntimeError("step() was called at displaced weights; call it after the block of displaced()")
        if not displacement.draws:
            raise RuntimeError(
                "step() got gradients of weights that were not displaced; call step(closure), or compute the loss and "
                "gradients within `with optimizer.displaced():`"
            )
        if displacement.draws % displacement.copies or (pairs and displacement.draws % 2):
            wanted = f"copies={displacement.copies}" + (", bias='antithetic'" if pairs else "")
            warnings.warn(
                f"step() got gradients of {displacement.draws} displacement(s), which {wanted} does not fit; use "
                "`with optimizer.displaced(draw):` for draw = 0, 1, ... of each step, or call step(closure)",
                stacklevel=5,
            )
        loss = None
    elif displacement.active:
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            displacement.restore()
    else:
        loss = _mean_of_copies(closure, displacement, params, step)
    assert not displacement.active
    displacement.draws = 0
    return loss


def _mean_of_copies(
    closure: Callable[[], Any], displacement: MeasuredDisplacement, params: Sequence[Tensor], step: int
) -> Any:
    copies = displacement.copies
    if displacement.bias == "antithetic":
        require("copies", copies, copies % 2 == 0, "even with bias='antithetic': its draws come in pairs")
    displaced_before = displacement.draws > 0
    losses, means = [], {}
    for draw in range(copies):
        displacement.displace(params, step, draw)
        try:
            with torch.enable_grad():
                losses.append(closure())
        finally:
            displacement.restore()
        if losses[-1] is None:
            if displaced_before:  # gradients are there: Lightning gives step() a closure that does nothing
                return None
            raise RuntimeError(
                "The closure returned no loss: let it return the loss; or, where it computes none, compute loss and "
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
