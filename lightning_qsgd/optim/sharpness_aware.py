"""SharpnessAware: SAM around AdamW, a classical control for displaced gradients and measured steps."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_qsgd.optim.perturbation import require


class SharpnessAware(torch.optim.AdamW):
    """AdamW on the gradient at the point within ``radius`` where the loss is highest to first order.

    Each step evaluates the closure twice: at theta, and at theta + radius * g / ||g|| (Foret, Kleiner, Mobahi and
    Neyshabur 2021, arXiv 2010.01412, Algorithm 1); the norm is over all parameters. So it takes about twice the time.
    Under Lightning: automatic optimization in full precision, without accumulation.

    Args:
        params: as of ``torch.optim.AdamW``.
        lr, betas, eps, weight_decay: as there, but weight_decay is 0 by default.
        radius: Euclidean length of the displacement, at least 0; 0: AdamW, with the closure evaluated twice.
            Default: 0.05, that of the paper.

    Raises:
        ValueError: for a negative radius; in ``step`` without a closure.
        RuntimeError: in ``step``, if the closure leaves no gradients, or adds to those of earlier batches.
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
            closure: sets the gradients to None (``zero_grad()``), computes the loss and its gradients, and returns it.

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
                "The closure added to earlier gradients: SharpnessAware cannot accumulate them over batches; train "
                "with accumulate_grad_batches=1, and call zero_grad(set_to_none=True) in a closure of your own"
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
            inspect.unwrap(torch.optim.AdamW.step)(self)  # torch wraps each class's step in hooks; once is enough
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
