"""The jobs of one request: how it is cut into them, where their ids are kept, how results are put together."""

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

VERSION = 1  # of the jobs file


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` (excluded) of PUB number ``pub``; rows are its parameter sets, in C order."""

    pub: int
    start: int
    stop: int


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


class JobsFile:
    """``{key: {"job_id": ..., ...}}`` on disk. Processes may share it: each change is made under a lock, atomically.

    Args:
        path: the JSON file; made at the first entry, its folder included. The lock lies beside it.

    Raises:
        RuntimeError: in any method, if the file exists and is no jobs file. It is left as it is.
        OSError: in any method, if it cannot be read or written.
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
                raise ValueError("another layout")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RuntimeError(
                f"The jobs file {self.path} is damaged ({type(error).__name__}: {error}) and was left as it is. Ids of "
                "paid jobs may be in it: note them, then move the file away"
            ) from error
        return jobs

    def put(self, key: str, job_id: str, **about: Any) -> None:
        """Record a job; ``about``: what else a reader of the file wants to know.

        Raises:
            RuntimeError: with the job's id, if the file cannot be written.
        """
        try:
            with self._edited() as jobs:
                jobs[key] = {"job_id": job_id, **about}
        except OSError as error:
            raise RuntimeError(f"Job {job_id} runs, but could not be recorded ({error}): note its id") from error

    def drop(self, keys: Iterable[str]) -> None:
        """Forget jobs; unknown keys are ignored."""
        with self._edited() as jobs:
            for key in keys:
                jobs.pop(key, None)

    @contextmanager
    def _edited(self) -> Iterator[dict[str, dict[str, Any]]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # a kill releases it, too
            jobs = self.read()
            before = json.dumps(jobs)
            yield jobs
            if json.dumps(jobs) != before:
                with atomic_write(self.path) as file:
                    json.dump({"version": VERSION, "jobs": jobs}, file, indent=2)


# ---- requests cut into jobs, and results put together


def split(sizes: Sequence[int], shots: Sequence[int], max_circuits: int, max_executions: int) -> list[list[Piece]]:
    """Jobs, each a list of pieces, that keep the order of rows and are filled up to the limits.

    Args:
        sizes: rows of each PUB, at least 1.
        shots: shots per row of each PUB, 1 to ``max_executions``.
        max_circuits: rows in one job, at least 1.
        max_executions: sum of rows * shots in one job.
    """
    jobs: list[list[Piece]] = []
    circuits = executions = 0  # what the last job has room for
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
    """The PUB of a piece: the PUB itself if that is whole, else its rows in one dimension."""
    if piece.stop - piece.start == pub.parameter_values.size:
        return pub
    parameters = tuple(pub.circuit.parameters)
    rows = pub.parameter_values.as_array(parameters).reshape(-1, len(parameters))[piece.start : piece.stop]
    return SamplerPub(pub.circuit, BindingsArray({parameters: rows}), pub.shots)


def check(job_id: str, pubs: Sequence[SamplerPub], shots: Sequence[int | None], result: Any) -> None:
    """Raise RuntimeError unless the result has the PUBs' rows, registers and bits, and the shots where known."""
    try:
        if len(result) != len(pubs):
            raise RuntimeError(f"{len(result)} results for {len(pubs)} PUBs")
        for pub, count, got in zip(pubs, shots, result, strict=True):
            shape = pub.parameter_values.shape
            for register in pub.circuit.cregs:
                if register.name not in got.data:
                    raise RuntimeError(f"no register {register.name!r} but {list(got.data)}")
                bits = got.data[register.name]
                if tuple(bits.shape) != shape:
                    raise RuntimeError(f"rows of shape {tuple(bits.shape)} instead of {shape}")
                if bits.num_bits != register.size:
                    raise RuntimeError(f"{bits.num_bits} bits in register {register.name!r} of {register.size}")
                if isinstance(bits, BitArray) and count is not None and bits.num_shots != count:
                    raise RuntimeError(f"{bits.num_shots} shots instead of {count}")
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RuntimeError(f"Job {job_id} returned a wrong result: {error}. It is not used") from error


def join(pub: SamplerPub, parts: Sequence[SamplerPubResult]) -> SamplerPubResult:
    """The result of a whole PUB from those of its pieces, in their order; bits or exact probabilities."""
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
        else:  # an array of distributions, of which numpy knows nothing
            rows = np.empty(pub.parameter_values.size, dtype=object)
            rows[:] = [each[row] for each in bits for row in range(each.shape[0])]
            data[name] = type(bits[0])(rows.reshape(shape))
    return type(parts[0])(DataBin(**data, shape=shape), metadata=parts[0].metadata)


def joined(pubs: Sequence[SamplerPub], jobs: Sequence[tuple[Sequence[Piece], Any]]) -> PrimitiveResult:
    """The result of all PUBs from (pieces, result) of each job."""
    parts: list[list[SamplerPubResult]] = [[] for _ in pubs]
    for pieces, result in jobs:
        for piece, part in zip(pieces, result, strict=True):
            parts[piece.pub].append(part)
    return PrimitiveResult([join(pub, part) for pub, part in zip(pubs, parts, strict=True)])
