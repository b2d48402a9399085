"""The paper's circuit or another one, run in each step, with a series that replaces it if its sampler fails.

Shapes: B blocks, n qubits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_qsgd.distributed import counted_from_rank_0
from lightning_qsgd.optim.circuit_perturbation import CircuitPerturbation, Rotations, SeriesOf
from lightning_qsgd.optim.perturbation import require
from lightning_qsgd.scrubbing import scrubbed

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

RETRY_AFTER = 100  # optimizer steps
log = logging.getLogger("lightning_qsgd")


class LiveCircuitPerturbation(CircuitPerturbation):
    """s from circuits that run in each step, one for each block.

    For your own circuit, write a subclass with an ``ansatz``. If ``Ring`` is a :class:`CircuitPerturbation` with it,
    ``class LiveRing(Ring, LiveCircuitPerturbation)`` is the same circuit run live, and each loads the other's
    checkpoints. In a distributed run rank 0 runs all circuits, and the other ranks receive its results.

    Args:
        num_qubits, depth, entanglement, rotations, rotation_seed, decode_chain, center, sampler: as in
            :class:`CircuitPerturbation`.
        max_circuits: largest number of circuits in a step, at least 1. Default: 1024.
        on_failure: what happens if circuits fail after some have run. "stop" (default): the error is raised before
            anything of the step is applied. "series": the exact series of the noiseless circuit, or that of
            ``calibration``, gives s in this step and the next 99; then circuits are tried again. This raises a warning,
            is counted, and is saved in checkpoints. A failure of the first circuits of a run always stops it, because
            it is a mistake in the settings.
        calibration: with on_failure="series", a file from ``lightning-qsgd calibrate``. Default: None.

    Raises:
        ValueError: as for :class:`CircuitPerturbation`; in ``forward`` above ``max_circuits``.
    """

    def __init__(
        self,
        num_qubits: int = 4,
        depth: int = 2,
        entanglement: Literal["linear", "none"] = "linear",
        rotations: Rotations | list[float] = "aligned",
        rotation_seed: int = 0,
        decode_chain: bool | None = None,
        center: Literal["zero", "odd"] | None = None,
        sampler: BaseSamplerV2 | None = None,
        max_circuits: int = 1024,
        on_failure: Literal["stop", "series"] = "stop",
        calibration: str | None = None,
    ) -> None:
        require("max_circuits", max_circuits, max_circuits >= 1, "at least 1")
        require("on_failure", on_failure, on_failure in ("stop", "series"), "'stop' or 'series'")
        valid = calibration is None or on_failure == "series"
        require("calibration", calibration, valid, "null, unless on_failure='series'")
        super().__init__(
            num_qubits, depth, entanglement, rotations, rotation_seed, decode_chain, center, sampler, calibration
        )
        self.max_circuits = max_circuits
        self.on_failure: Literal["stop", "series"] = on_failure
        self._failed_at: int | None = None  # step of the last failure; None if circuits have run since

    @cached_property
    def _fallback(self) -> CircuitPerturbation | None:
        return SeriesOf(self, calibration=self.calibration) if self.on_failure == "series" else None

    @property
    def blockwise(self) -> bool:
        """False: the circuits of all blocks of a step run together."""
        return False

    def prepare(self) -> str | None:
        """Fit the fallback series, and measure s(0) if it is subtracted, unless a checkpoint had them."""
        if self._fallback is not None:
            self._fallback.prepare()
        if self.center == "zero" and self._offset is None:
            self._offset = self._uncentred(self._zero, step=-1)
        return None

    def _uncentred(self, angles: Tensor, step: int) -> Tensor:
        inputs = angles.cpu()
        self._check(inputs)

        def run() -> Tensor:
            return torch.from_numpy(self.measure(inputs.numpy(), step)) @ self.matrix

        if self._fallback is None:
            return counted_from_rank_0(self, run).to(angles)
        if self._failed_at is None or not 0 <= step - self._failed_at < RETRY_AFTER:  # a smaller step: a new optimizer
            s = counted_from_rank_0(self, lambda: self._try(run, step))
            self._failed_at = step if s is None else None
            if s is not None:
                return s.to(angles)
        self.fallback_steps += 1
        self._fallback.prepare()
        return self._fallback.forward(inputs, step=step).to(angles)

    def _check(self, angles: Tensor) -> None:
        if len(angles) > self.max_circuits:
            raise ValueError(
                f"A live step would run {len(angles)} circuits, more than max_circuits={self.max_circuits}; use "
                "CircuitPerturbation, scope='first_of_tensor' or 'first_of_model', or raise max_circuits"
            )
        if not bool(torch.isfinite(angles).all()):
            raise ValueError("Invalid weights: some are not finite and cannot be angles of a circuit")

    def _try(self, run: Callable[[], Tensor], step: int) -> Tensor | None:
        try:
            return run()
        except Exception as error:
            if not self.circuits:
                raise
            text = " ".join(scrubbed(f"{type(error).__name__}: {error}").split())[:500]
            log.warning(
                f"Circuits failed in step {step} ({text}). Their series replaces them in this step and the next "
                f"{RETRY_AFTER - 1}, then circuits are tried again; quantum/fallback_steps counts these steps"
            )
            return None

    def _probabilities(self, angles: Tensor, key: tuple[int, ...]) -> Tensor:
        if len(angles) > self.max_circuits:
            raise ValueError(
                f"A live displacement would run {len(angles)} circuits, more than max_circuits={self.max_circuits}; "
                "use CircuitPerturbation, or raise max_circuits"
            )
        step = int(np.random.SeedSequence(key).generate_state(1)[0])

        def run() -> Tensor:
            return torch.from_numpy(self.measure(angles.cpu().numpy(), step))

        return counted_from_rank_0(self, run).to(angles)

    def _series_state(self) -> dict[str, Any]:
        if self._fallback is None:
            return {}
        state = {f"fallback.{name}": value for name, value in self._fallback.state_dict().items()}
        since = -1 if self._failed_at is None else self._failed_at
        return state | {"fallback_steps": self.fallback_steps, "fallback_since": since}

    def _load_series(self, state: dict[str, Any]) -> None:
        if self._fallback is None or "fallback_steps" not in state:
            return
        since = int(state["fallback_since"])
        self.fallback_steps, self._failed_at = int(state["fallback_steps"]), None if since < 0 else since
        prefix = "fallback."
        self._fallback.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
