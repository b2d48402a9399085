"""The jobs of one request: Part, one job at the backend; ReliableJob, all of them, as the caller sees them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qiskit.primitives import BasePrimitiveJob
from qiskit.primitives.containers import PrimitiveResult
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers import JobStatus

from lightning_qsgd.quantum.splitting import Piece
from lightning_qsgd.scrubbing import scrubbed

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Part:
    """One job of a request: ``pubs[i]`` holds the rows of ``pieces[i]``, each run with ``shots[i]`` (None: unknown)."""

    pieces: list[Piece] = field(default_factory=list)
    pubs: list[SamplerPub] = field(default_factory=list)
    shots: list[int | None] = field(default_factory=list)
    key: str = ""  # in the jobs file
    job: Any = None
    job_id: str = ""
    begun: float = 0.0  # when waiting for the job began, by the monotonic clock
    failures: int = 0  # in a row
    result: Any = None

    @property
    def circuits(self) -> int:
        """Number of circuits in the job."""
        return sum(piece.stop - piece.start for piece in self.pieces)


class ReliableJob(BasePrimitiveJob[PrimitiveResult, JobStatus]):
    """All jobs of one request. It counts as running until its result was collected, or it was cancelled.

    Args:
        parts: the jobs.
        collect: waits for them and returns the result of the request.
        forget: drops them where they are recorded.
    """

    def __init__(
        self, parts: list[Part], collect: Callable[[], PrimitiveResult], forget: Callable[[Sequence[Part]], None]
    ) -> None:
        super().__init__(str(uuid.uuid4()))
        self._parts, self._collect, self._forget = parts, collect, forget
        self._result: PrimitiveResult | None = None
        self._cancelled = False

    def result(self) -> PrimitiveResult:
        """Wait for all jobs; rows stand in the order of the request.

        Raises:
            RuntimeError: if all tries failed, a job failed, or its result is wrong.
            TimeoutError: if a job that can be found again took longer than the sampler's ``timeout``.
        """
        if self._result is None:
            self._result = self._collect()
        return self._result

    def status(self) -> JobStatus:
        """DONE, CANCELLED or RUNNING."""
        if self._result is not None:
            return JobStatus.DONE
        return JobStatus.CANCELLED if self._cancelled else JobStatus.RUNNING

    def done(self) -> bool:
        """Whether the result was collected."""
        return self.status() == JobStatus.DONE

    def running(self) -> bool:
        """Whether the result is still to be collected."""
        return self.status() == JobStatus.RUNNING

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called before the result was collected."""
        return self.status() == JobStatus.CANCELLED

    def in_final_state(self) -> bool:
        """Whether it is done or cancelled."""
        return not self.running()

    def cancel(self) -> None:
        """Cancel all jobs, as far as that is possible, and forget them."""
        for part in self._parts:
            try_to_cancel(part.job)
        self._forget(self._parts)
        self._cancelled = True


def try_to_cancel(job: Any) -> None:
    """Cancel a job; what prevents it is logged, not raised."""
    try:
        job.cancel()
    except Exception as error:
        log.info("Could not cancel a job (%s)", type(error).__name__)


def describe(error: BaseException) -> str:
    """Type and text of an error, without secrets."""
    return scrubbed(f"{type(error).__name__}: {error}")
