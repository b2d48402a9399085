"""Split a request into jobs, record their ids, check their results and join them."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from qiskit.primitives import BasePrimitiveJob, BitArray, DataBin
from qiskit.primitives.containers import PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers import JobStatus

from lightning_qsgd.files import atomic_write
from lightning_qsgd.scrubbing import scrubbed

log = logging.getLogger(__name__)

VERSION = 1  # of the format of the jobs file


class Piece(NamedTuple):
    """Rows ``start`` to ``stop - 1`` of PUB number ``pub``. Rows are the PUB's parameter sets, in C order."""

    pub: int
    start: int
    stop: int


@dataclass(eq=False)
class Part:
    """One job of a request: ``pubs[i]`` holds the rows of ``pieces[i]``, with ``shots[i]`` shots (None: unknown)."""

    pieces: list[Piece] = field(default_factory=list)
    pubs: list[SamplerPub] = field(default_factory=list)
    shots: list[int | None] = field(default_factory=list)
    key: str = ""  # in the jobs file
    job: Any = None
    job_id: str = ""
    begun: float = 0.0  # when waiting for the job began, by the monotonic clock
    result: Any = None

    @property
    def circuits(self) -> int:
        """Number of circuits in the job."""
        return sum(piece.stop - piece.start for piece in self.pieces)


class ReliableJob(BasePrimitiveJob[PrimitiveResult, JobStatus]):
    """All jobs of one request. It is running until its result has been collected or it has been cancelled.

    Args:
        parts: the jobs.
        collect: called without arguments; waits for the jobs and returns the result of the request.
        forget: called with jobs; removes their records.
    """

    def __init__(
        self, parts: list[Part], collect: Callable[[], PrimitiveResult], forget: Callable[[Sequence[Part]], None]
    ) -> None:
        super().__init__(str(uuid.uuid4()))
        self._parts, self._collect, self._forget = parts, collect, forget
        self._result: PrimitiveResult | None = None
        self._cancelled = False

    def result(self) -> PrimitiveResult:
        """Wait for all jobs and return their result, with rows in the order of the request.

        Raises:
            RuntimeError: if all tries failed, a job failed, or its result is invalid.
            TimeoutError: if a job that can be found again takes longer than the sampler's ``timeout``.
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
        """Whether the result has been collected."""
        return self.status() == JobStatus.DONE

    def running(self) -> bool:
        """Whether the result has yet to be collected."""
        return self.status() == JobStatus.RUNNING

    def cancelled(self) -> bool:
        """Whether ``cancel`` was called before the result was collected."""
        return self.status() == JobStatus.CANCELLED

    def in_final_state(self) -> bool:
        """Whether the request is done or cancelled."""
        return not self.running()

    def cancel(self) -> None:
        """Cancel all jobs as far as possible, and remove their records."""
        for part in self._parts:
            try_to_cancel(part.job)
        self._forget(self._parts)
        self._cancelled = True


def try_to_cancel(job: Any) -> None:
    """Cancel a job; a failure is logged and not raised."""
    try:
        job.cancel()
    except Exception as error:
        log.info("Could not cancel a job (%s)", type(error).__name__)


def describe(error: BaseException) -> str:
    """Type and text of an error, without secrets."""
    return scrubbed(f"{type(error).__name__}: {error}")


class JobsFile:
    """A JSON file that maps keys to ``{"job_id": ..., ...}``. Processes may share it: changes are locked and atomic.

    Args:
        path: the file. It is made at the first entry, together with its folder; the lock is a file next to it.

    Raises:
        RuntimeError: in any method, if the file exists and is not a jobs file. It stays unchanged.
        OSError: in any method, if the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """All entries, oldest first."""
        if not self.path.exists():
            return {}
        text = self.path.read_bytes()
        try:
            content = json.loads(text)
            jobs = content["jobs"]
            if content["version"] != VERSION or not all(isinstance(job["job_id"], str) for job in jobs.values()):
                raise ValueError("unknown format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RuntimeError(
                f"The jobs file {self.path} is damaged ({type(error).__name__}: {error}). It was not changed, since it "
                "may hold ids of paid jobs: note them, then move the file away"
            ) from error
        return jobs

    def put(self, key: str, job_id: str, **about: Any) -> None:
        """Record a job.

        Args:
            key: key of the entry.
            job_id: id of the job.
            about: further values of the entry, for people who read the file.

        Raises:
            RuntimeError: if the file cannot be written; the message holds the job's id.
        """
        try:
            with self._edited() as jobs:
                jobs[key] = {"job_id": job_id, **about}
        except OSError as error:
            raise RuntimeError(f"Job {job_id} is running, but could not be recorded ({error}): note its id") from error

    def drop(self, keys: Iterable[str]) -> None:
        """Remove entries; unknown keys are ignored."""
        with self._edited() as jobs:
            for key in keys:
                jobs.pop(key, None)

    @contextmanager
    def _edited(self) -> Iterator[dict[str, dict[str, Any]]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # a kill releases it as well
            jobs = self.read()
            before = json.dumps(jobs)
            yield jobs
            if json.dumps(jobs) != before:
                with atomic_write(self.path) as file:
                    json.dump({"version": VERSION, "jobs": jobs}, file, indent=2)


# ---- splitting requests into jobs, and joining results


def split(sizes: Sequence[int], shots: Sequence[int], max_circuits: int, max_executions: int) -> list[list[Piece]]:
    """Split the rows of PUBs into jobs, in order, with as many rows in each job as the limits allow.

    Args:
        sizes: number of rows of each PUB, at least 1.
        shots: shots per row of each PUB, 1 to ``max_executions``.
        max_circuits: maximum number of rows in one job, at least 1.
        max_executions: maximum sum of rows * shots in one job.

    Returns:
        The pieces of each job.
    """
    jobs: list[list[Piece]] = []
    circuits = executions = 0  # room left in the last job
    for pub, (size, count) in enumerate(zip(sizes, shots, strict=True)):
        start = 0
        while start < size:
            room = min(circuits, executions // count)
            if not room:
                jobs.append([])
                circuits, executions = max_circuits, max_executions
                continue
            stop = min(size, start + room)
            jobs[-1].append(Piece(pub, start, stop))
            circuits -= stop - start
            executions -= (stop - start) * count
            start = stop
    return jobs


def cut(pub: SamplerPub, piece: Piece) -> SamplerPub:
    """The PUB of a piece: ``pub`` itself if the piece is all of it, otherwise its rows in one dimension."""
    if piece.stop - piece.start == pub.parameter_values.size:
        return pub
    parameters = tuple(pub.circuit.parameters)
    rows = pub.parameter_values.as_array(parameters).reshape(-1, len(parameters))[piece.start : piece.stop]
    return SamplerPub(pub.circuit, BindingsArray({parameters: rows}), pub.shots)


def check(job_id: str, pubs: Sequence[SamplerPub], shots: Sequence[int | None], result: Any) -> None:
    """Check that a result has the rows, registers and bits of the PUBs, and their shots where known.

    Raises:
        RuntimeError: if it does not.
    """
    try:
        if len(result) != len(pubs):
            raise RuntimeError(f"{len(result)} results for {len(pubs)} PUBs")
        for pub, count, got in zip(pubs, shots, result, strict=True):
            shape = pub.parameter_values.shape
            for register in pub.circuit.cregs:
                if register.name not in got.data:
                    raise RuntimeError(f"register {register.name!r} is missing among {list(got.data)}")
                bits = got.data[register.name]
                if tuple(bits.shape) != shape:
                    raise RuntimeError(f"rows of shape {tuple(bits.shape)} instead of {shape}")
                if bits.num_bits != register.size:
                    raise RuntimeError(f"{bits.num_bits} bits instead of {register.size} in register {register.name!r}")
                if isinstance(bits, BitArray) and count is not None and bits.num_shots != count:
                    raise RuntimeError(f"{bits.num_shots} shots instead of {count}")
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RuntimeError(f"Job {job_id} returned an invalid result: {error}. It was not used") from error


def join(pub: SamplerPub, parts: Sequence[SamplerPubResult]) -> SamplerPubResult:
    """Join the results of a PUB's pieces, in their order. They hold bits or exact probabilities."""
    if len(parts) == 1:
        return parts[0]
    shape = pub.parameter_values.shape
    data: dict[str, Any] = {}
    for name in parts[0].data.keys():  # noqa: SIM118 (iterable, but not typed so)
        bits = [part.data[name] for part in parts]
        if all(isinstance(each, BitArray) for each in bits):
            if len({each.num_shots for each in bits}) > 1:
                raise RuntimeError(f"Jobs of one request returned {sorted({each.num_shots for each in bits})} shots")
            data[name] = BitArray.concatenate(bits).reshape(shape)
        else:  # an array of distributions, which numpy cannot concatenate
            rows = np.empty(pub.parameter_values.size, dtype=object)
            rows[:] = [each[row] for each in bits for row in range(each.shape[0])]
            data[name] = type(bits[0])(rows.reshape(shape))
    return type(parts[0])(DataBin(**data, shape=shape), metadata=parts[0].metadata)


def joined(pubs: Sequence[SamplerPub], jobs: Sequence[tuple[Sequence[Piece], Any]]) -> PrimitiveResult:
    """Join the results of jobs, given as (pieces, result), to the result of all PUBs."""
    parts: list[list[SamplerPubResult]] = [[] for _ in pubs]
    for pieces, result in jobs:
        for piece, part in zip(pieces, result, strict=True):
            parts[piece.pub].append(part)
    return PrimitiveResult([join(pub, part) for pub, part in zip(pubs, parts, strict=True)])
