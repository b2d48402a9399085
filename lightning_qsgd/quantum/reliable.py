"""ReliableSampler: split requests into jobs, retry transient errors, and collect jobs after a crash."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from qiskit.primitives import BaseSamplerV2
from qiskit.primitives.containers import PrimitiveResult, SamplerPubLike
from qiskit.primitives.containers.sampler_pub import SamplerPub
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from lightning_qsgd.quantum.fingerprint import of_request
from lightning_qsgd.quantum.jobs import (
    JobsFile,
    Part,
    ReliableJob,
    check,
    cut,
    describe,
    joined,
    split,
    try_to_cancel,
)
from lightning_qsgd.quantum.samplers import SamplerJob, backend_of
from lightning_qsgd.scrubbing import chain

log = logging.getLogger(__name__)

# Time-out, too early, too many requests, and server errors; those from 520 on come from a proxy before the server.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
LONGEST_DELAY = 60.0  # seconds, without the server's Retry-After
LONGEST_RETRY_AFTER = 3600.0  # seconds


class ReliableSampler(BaseSamplerV2):
    """Wraps a sampler: splits requests into jobs, retries transient errors, and collects jobs of a process that died.

    Only transient errors are retried: lost connections, time-outs, and the HTTP statuses 408, 425, 429, 500, 502 to 504
    and 520 to 524, unless the client has retried them itself. Other errors are raised at once. So are errors about
    results with missing rows, registers or shots. If the answer to a submission is lost, its job may run twice.

    Jobs can be found again if the wrapped sampler has a method ``job(job_id)`` that raises LookupError for unknown ids.
    Their ids are then written to ``jobs_file`` before the sampler waits for them. The key is a fingerprint of the
    transpiled circuits, values, shots and backend. An equal request, in this process or another, collects those jobs.
    An entry is removed when its request is done, or, inside ``with sampler.hold():``, when the block ends without an
    error. Processes may share a file. Two processes that make equal requests at the same time may share the jobs, and
    then have the same shot noise.

    Args:
        sampler: the sampler to wrap.
        max_circuits: maximum number of circuits in one job, at least 1. Default: None, the backend's ``max_circuits``,
            or no limit if it has none.
        timeout: seconds to wait for one job, above 0. After that, a job that can be found again is left running and
            TimeoutError is raised; any other job is cancelled and submitted again. Default: None, no limit.
        retries: number of retries after a failed try, at least 0, counted anew after each success. Default: 5.
        backoff: seconds before the first retry, at least 0. It is doubled for each further retry up to 60 seconds, and
            randomized. Default: 1.
        jobs_file: JSON file for the ids of jobs. Default: None, no ids are kept.

    Attributes:
        on_progress: None, or a function that is called after each job with the number of circuits that are done, and
            the number of circuits in the request.

    Raises:
        ValueError: for an argument out of range, or a jobs file for a sampler that cannot find jobs again.
    """

    max_executions: int | None = None  # circuits * shots in one job; None: no limit

    def __init__(
        self,
        sampler: BaseSamplerV2,
        *,
        max_circuits: int | None = None,
        timeout: float | None = None,
        retries: int = 5,
        backoff: float = 1.0,
        jobs_file: str | Path | None = None,
    ) -> None:
        if max_circuits is not None and max_circuits < 1:
            raise ValueError(f"Invalid max_circuits: {max_circuits}; it must be at least 1, or null for no limit")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"Invalid timeout: {timeout}; it must be above 0 seconds, or null to wait without limit")
        if retries < 0:
            raise ValueError(f"Invalid retries: {retries}; it must be at least 0")
        if not backoff >= 0:
            raise ValueError(f"Invalid backoff: {backoff}; it must be at least 0 seconds")
        self._can_find = hasattr(sampler, "job")
        if jobs_file is not None and not self._can_find:
            raise ValueError(
                f"Invalid jobs_file: {str(jobs_file)!r}; {type(sampler).__name__} cannot find jobs again (it has no "
                "method job): leave jobs_file out"
            )
        self.sampler, self.max_circuits, self.timeout, self.retries = sampler, max_circuits, timeout, retries
        self.backoff, self.jobs_file = backoff, None if jobs_file is None else JobsFile(jobs_file)
        self.on_progress: Callable[[int, int], None] | None = None
        self._active: set[str] = set()  # keys in use: an equal request at the same time gets another key
        self._held: set[str] | None = None  # keys of finished requests inside hold()

    @property
    def shots(self) -> int | None:
        """Shots per circuit of the wrapped sampler; None if unknown."""
        return getattr(self.sampler, "shots", None)

    @property
    def backend(self) -> Any:
        """The backend to transpile circuits for, or None."""
        return self._tried(lambda: backend_of(self.sampler))

    def reseed(self, step: int) -> None:
        """Call the wrapped sampler's ``reseed``, if it has one, so that noise follows the training step."""
        if reseed := getattr(self.sampler, "reseed", None):
            reseed(step)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep finished requests in the jobs file until the block ends without an error.

        Use it for a computation of several requests, and save its outcome at the end of the block. If the process dies
        before that, the next run collects all results again without new jobs.
        """
        if self._held is not None:  # inside another hold, which removes the entries
            yield
            return
        self._held = set()
        try:
            yield
            if self.jobs_file:
                self.jobs_file.drop(self._held)
        finally:
            self._active -= self._held
            self._held = None

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Submit all jobs of a request; see ``BaseSamplerV2.run``. ``result()`` of the returned job waits for them.

        Raises:
            ValueError: for a PUB without circuits, or more shots than fit into one job.
            RuntimeError: if all tries failed, or the jobs file is damaged.
        """
        coerced = [SamplerPub.coerce(pub, shots) for pub in pubs]
        self._forget(())  # an unwritable jobs file fails here, before a job is paid for
        with self._telling(parts := self._parts(coerced)):
            for part in parts:
                self._tried(partial(self._start, part), parts)
        return ReliableJob(parts, partial(self._collect, coerced, parts), self._forget)

    def _parts(self, pubs: list[SamplerPub]) -> list[Part]:
        sizes = [pub.parameter_values.size for pub in pubs]
        shots = [self._shots_of(pub) for pub in pubs]
        if not pubs or not all(sizes):
            raise ValueError(f"Invalid pubs: {sizes} circuits; each PUB must have at least 1")
        most = self.max_executions or sys.maxsize
        if (worst := max(count or 1 for count in shots)) > most:
            raise ValueError(f"Invalid shots: {worst}; one job takes at most {most} circuits * shots")
        circuits = self.max_circuits or getattr(self.backend, "max_circuits", None) or sys.maxsize
        parts = []
        for pieces in split(sizes, [count or 1 for count in shots], circuits, most):
            part = Part(pieces, [cut(pubs[piece.pub], piece) for piece in pieces], [shots[p.pub] for p in pieces])
            if self.jobs_file:
                name = of_request(part.pubs, f"{self._where()} {part.shots}")
                part.key = next(key for n in range(sys.maxsize) if (key := f"{name}-{n}") not in self._active)
                self._active.add(part.key)
            parts.append(part)
        return parts

    def _shots_of(self, pub: SamplerPub) -> int | None:
        return pub.shots or self.shots

    def _where(self) -> str:
        """A text that identifies all that a job's outcome depends on besides circuits, values and shots."""
        return str(getattr(self.backend, "name", None) or type(self.sampler).__name__)

    def _guard(self) -> AbstractContextManager[Any]:
        return nullcontext()  # wraps each call of the sampler and its jobs

    def _start(self, part: Part) -> None:
        """Find the job of a part, or submit and record it."""
        if self.jobs_file and not part.job_id:
            part.job_id = self.jobs_file.read().get(part.key, {}).get("job_id", "")
        if part.job_id and self._can_find:
            try:
                part.job = self.sampler.job(part.job_id)  # pyright: ignore[reportAttributeAccessIssue]
                return
            except LookupError:
                log.warning("The backend no longer knows job %s; submitting it again", part.job_id)
        backend = str(getattr(self.backend, "name", ""))
        job = self.sampler.run(part.pubs)
        if self.jobs_file:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.jobs_file.put(part.key, job.job_id(), backend=backend, circuits=part.circuits, submitted=now)
        part.job, part.job_id = job, job.job_id()

    def _collect(self, pubs: list[SamplerPub], parts: list[Part]) -> PrimitiveResult:
        total, done = sum(part.circuits for part in parts), 0
        with self._telling(parts):
            for part in parts:
                if part.result is None:
                    part.result = self._result(part, parts)
                done += part.circuits
                if self.on_progress:
                    self.on_progress(done, total)
            result = joined(pubs, [(part.pieces, part.result) for part in parts])
        if self._held is None:
            self._forget(parts)
        else:
            self._held |= {part.key for part in parts}
        return result

    def _result(self, part: Part, parts: list[Part]) -> Any:
        part.begun = time.monotonic()
        if not self._can_find:  # a lost job is submitted again, which counts as a try
            return self._tried(partial(self._finished, part), parts)
        while (result := self._tried(partial(self._step, part), parts)) is None:
            if self._is_late(part):
                raise TimeoutError(f"{self._late(part)}. {self._left(parts)}")
        return result

    def _finished(self, part: Part) -> Any:
        while (result := self._step(part)) is None:
            if self._is_late(part):
                try_to_cancel(part.job)
                part.job, part.begun = None, time.monotonic()
                raise TimeoutError(self._late(part))
        return result

    def _step(self, part: Part) -> Any:
        """Wait for a moment, and return the job's result, or None if it is not finished."""
        if part.job is None:
            self._start(part)
        assert part.job is not None
        waited = time.monotonic() - part.begun
        time.sleep(min(max(0.1 * waited, 0.001), 5.0))  # before asking: a job that is starting may report ERROR
        if not part.job.in_final_state():
            return None
        job, part.job = part.job, None  # if fetching fails, the job is found or submitted again
        result = self._fetched(part, job)
        try:
            check(part.job_id, part.pubs, part.shots, result)
        except RuntimeError:
            self._forget([part])
            raise
        return result

    def _is_late(self, part: Part) -> bool:
        return self.timeout is not None and time.monotonic() - part.begun > self.timeout

    def _late(self, part: Part) -> str:
        return f"Job {part.job_id} did not finish within {self.timeout:g} s"

    def _fetched(self, part: Part, job: Any) -> Any:
        try:
            return job.result()
        except Exception as error:
            if is_passing(error) or getattr(status := job.status(), "name", status) not in ("ERROR", "CANCELLED"):
                raise
            text = f"Job {part.job_id} failed ({describe(error)}); an equal request submits it again"
            self._forget([part])
            raise RuntimeError(text) from error

    def _tried(self, function: Callable[[], Any], parts: Sequence[Part] = ()) -> Any:
        """Call a function, again after transient errors, and return its value."""

        def attempt() -> Any:
            with self._guard():
                return function()

        def give_up(state: RetryCallState) -> NoReturn:
            error = _error_of(state)
            way_out = self._left(parts) or "Run the same command again later, or raise retries"
            raise RuntimeError(f"Gave up after {state.attempt_number} tries: {describe(error)}. {way_out}") from error

        def tell(state: RetryCallState) -> None:
            tries = f"try {state.attempt_number + 1} of {self.retries + 1}"
            log.warning("%s; %s in %.1f s", describe(_error_of(state)), tries, state.upcoming_sleep)

        retrying = Retrying(
            retry=retry_if_exception(is_passing),
            stop=stop_after_attempt(self.retries + 1),
            wait=lambda state: delay(_error_of(state), state.attempt_number, self.backoff),
            before_sleep=tell,
            retry_error_callback=give_up,
        )
        return retrying(attempt)

    @contextmanager
    def _telling(self, parts: list[Part]) -> Iterator[None]:
        """If the block ends early, say which jobs are left, and let an equal request find them."""
        try:
            yield
        except BaseException as error:
            self._active -= {part.key for part in parts}
            left = self._left(parts)
            if left and isinstance(error, KeyboardInterrupt):
                log.warning("%s", left)
            elif left and left not in str(error):
                error.add_note(left)
            raise

    def _left(self, parts: Sequence[Part]) -> str:
        """Say which jobs are still at the backend and how to collect them; "" if they cannot be found again."""
        ids = [part.job_id for part in parts if part.job_id]
        if not ids or not self._can_find:
            return ""
        listed = ", ".join(ids[:5]) + f" and {len(ids) - 5} more" * (len(ids) > 5)
        if not self.jobs_file:
            return f"Still at the backend: {listed}; set jobs_file, so that the next run collects such jobs"
        return f"Still at the backend, recorded in {self.jobs_file.path}: {listed}; the same command collects them"

    def _forget(self, parts: Iterable[Part]) -> None:
        keys = {part.key for part in parts}
        if self.jobs_file:
            self.jobs_file.drop(keys)
        self._active -= keys
        for part in parts:
            part.job_id = ""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"on_progress": None, "_active": set(), "_held": None}


# ---- transient errors, and delays before retries


def is_passing(error: BaseException) -> bool:
    """Whether an error is transient: a lost connection, a time-out, or an HTTP status in ``PASSING_STATUS``.

    Errors after which a session of requests has given up retrying are not retried again. The session of
    qiskit-ibm-runtime retries the statuses 500, 502 to 504, 520 to 522 and 524 five times.
    """
    links = list(chain(error))
    requests: Any = sys.modules.get("requests.exceptions")  # if requests is not loaded, no error can be its
    lost: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError)
    if requests is not None:
        if any(isinstance(link, requests.RetryError) for link in links):
            return False
        lost += (requests.ConnectionError, requests.Timeout, requests.ChunkedEncodingError)
    return any(isinstance(link, lost) or _status(link) in PASSING_STATUS for link in links)


def delay(error: BaseException, failures: int, backoff: float) -> float:
    """Seconds to wait after a number of failures in a row (at least 1).

    ``backoff`` is doubled with each failure, up to 60 s, and multiplied by a random factor between 1/2 and 1, so that
    clients that failed together do not retry together. The delay is at least the server's Retry-After, of which at most
    one hour counts.
    """
    seconds = min(backoff * 2 ** (failures - 1), LONGEST_DELAY) * random.uniform(0.5, 1.0)
    return max(seconds, *(min(_retry_after(link), LONGEST_RETRY_AFTER) for link in chain(error)))


def _error_of(state: RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def _status(error: BaseException) -> Any:
    status = getattr(error, "status_code", None)
    return status if status in PASSING_STATUS else getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(error: BaseException) -> float:
    """Seconds that the response asks to wait, as a number or as a date; 0 without Retry-After."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("Retry-After")
    if value is None:
        return 0.0
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # TypeError: a date without a time zone
        return 0.0
