"""SeriesFallback: what answers a live circuit's step when its sampler fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.scrubbing import scrubbed

if TYPE_CHECKING:
    from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation

RETRY_AFTER = 100  # optimizer steps
log = logging.getLogger("lightning_qsgd")


class SeriesFallback:
    """Asks circuits, and after a failure a series for the next 100 steps; then circuits again.

    Args:
        series: the circuit in surrogate mode, on another sampler or from a calibration.

    Attributes:
        series: as given.
        steps: optimizer steps that the series has answered.
        failed_at: step of the last failure, from 0; None: none, or circuits have answered since.
    """

    def __init__(self, series: CircuitPerturbation) -> None:
        self.series = series
        self.steps = 0
        self.failed_at: int | None = None

    def answer(self, circuit: CircuitPerturbation, run: Callable[[], Tensor], angles: Tensor, step: int) -> Tensor:
        """s of a step, (B, n): that of ``run`` on rank 0, or of the series on all ranks.

        Args:
            circuit: where circuits are counted. The first circuits of a run must succeed: what fails at once is a
                mistake in the settings, and no device that went away.
            run: runs the circuits.
            angles: (B, n), finite.
            step: the optimizer's step; -1: before the first.

        Raises:
            Exception: that of ``run``, if no circuit has run before.
        """
        if self.failed_at is None or not 0 <= step - self.failed_at < RETRY_AFTER:  # before it: a new optimizer
            s = counted_from_rank_0(circuit, lambda: self._try(circuit, run, step))
            self.failed_at = step if s is None else None
            if s is not None:
                return s
        self.steps += 1
        self.series.prepare()
        return self.series._evaluate(angles, step)  # what a subclass makes of s in forward, it makes of this as well

    def _try(self, circuit: CircuitPerturbation, run: Callable[[], Tensor], step: int) -> Tensor | None:
        try:
            return run()
        except Exception as error:
            if not circuit.circuits:
                raise
            text = " ".join(scrubbed(f"{type(error).__name__}: {error}").split())[:500]
            log.warning(
                f"Circuits failed in step {step} ({text}). Their series answers this step and the next "
                f"{RETRY_AFTER - 1}, then circuits are tried again; quantum/fallback_steps counts them"
            )
            return None

    def state_dict(self) -> dict[str, Any]:
        """Flat; with the series, so that a resumed run needs no calibration file."""
        state = {f"fallback.{name}": value for name, value in self.series.state_dict().items()}
        return state | {
            "fallback_steps": self.steps,
            "fallback_since": -1 if self.failed_at is None else self.failed_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; nothing from the state of a run without fallback."""
        if "fallback_steps" not in state:
            return
        since = int(state["fallback_since"])
        self.steps, self.failed_at = int(state["fallback_steps"]), None if since < 0 else since
        prefix = "fallback."
        self.series.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})


def check_finite(angles: Tensor) -> None:
    """Refuse angles that no circuit can take, before one is blamed.

    Raises:
        ValueError: if any is not finite.
    """
    if not bool(torch.isfinite(angles).all()):
        raise ValueError("Invalid weights: some are not finite, so that no circuit can take them as angles")
