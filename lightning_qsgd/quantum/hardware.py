"""IBMSampler: run circuits on quantum computers of IBM through qiskit-ibm-runtime."""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from qiskit import QuantumCircuit
from qiskit.primitives import BaseSamplerV2
from qiskit.primitives.containers import SamplerPubLike
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers.exceptions import QiskitBackendNotFoundError

from lightning_qsgd.quantum.jobs import JobsFile
from lightning_qsgd.quantum.noise import missing_runtime
from lightning_qsgd.quantum.reliable import ReliableSampler
from lightning_qsgd.quantum.samplers import SamplerJob
from lightning_qsgd.scrubbing import scrub

log = logging.getLogger(__name__)

# Limit of one Sampler job, from https://quantum.cloud.ibm.com/docs/guides/job-limits. That page also says that
# max_shots and max_experiments of a backend's configuration, the limits that the client knows, are no longer enforced.
MAX_EXECUTIONS = 10_000_000
# Seconds. See the formula in https://quantum.cloud.ibm.com/docs/guides/estimate-job-run-time
JOB_OVERHEAD = 2.0
REP_DELAY = 250e-6  # if the backend names none

NO_ACCOUNT = (
    'No IBM Quantum account found. Save one, once: python -c "import getpass; from qiskit_ibm_runtime import '
    "QiskitRuntimeService; QiskitRuntimeService.save_account(token=getpass.getpass('API key: '), "
    'set_as_default=True)", or set the environment variables QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE'
)


class IBMSampler(ReliableSampler):
    """Runs circuits on an IBM quantum computer in batch mode, with the features of :class:`ReliableSampler`.

    The account is the one saved by qiskit-ibm-runtime, or comes from the environment variables QISKIT_IBM_TOKEN and
    QISKIT_IBM_INSTANCE. The key is not an argument, and is removed from errors. The sampler connects at its first use.
    The first job opens a batch; :meth:`close` or the end of the process closes it, and jobs in it still finish. If the
    device is recalibrated between two runs, the transpiled circuit may change; the second run then does not find the
    jobs of the first.

    Args:
        backend: name of the backend, or "least_busy" for the one with the shortest queue. If the jobs file holds jobs,
            "least_busy" is the backend of the latest of them. Default: "least_busy".
        instance: instance to use, by name or CRN. Default: None, the account's.
        shots: shots per circuit, 1 to 10,000,000. Default: 1024.
        twirling: "gates" (random Paulis around two-qubit gates turn coherent errors into noise), "measure" (random
            flips around readout remove its bias), "all", or None. Twirling rounds the number of shots up: to a multiple
            of 64 up to 2048 shots, above that to a multiple of 1/32 of them. Default: None.
        dynamical_decoupling: pulses on idle qubits, "XX", "XpXm" or "XY4", or None. Default: None.
        options: further fields of qiskit-ibm-runtime's ``SamplerOptions``, such as {"max_execution_time": 600}. The
            Sampler has no readout correction and no extrapolation. Default: None.
        max_circuits: maximum number of circuits in one job, at least 1, or None for no limit. A failed job loses the
            results of its circuits only. Default: 1000.
        timeout, retries, backoff, jobs_file: see :class:`ReliableSampler`. The default jobs file is data/jobs.json.

    Raises:
        ValueError: for an argument out of range; at the first use for an unknown backend or option.
        RuntimeError: at the first use, without an account.
        ModuleNotFoundError: at the first use, without qiskit-ibm-runtime.
    """

    max_executions = MAX_EXECUTIONS

    def __init__(
        self,
        backend: str = "least_busy",
        instance: str | None = None,
        shots: int = 1024,
        twirling: Literal["gates", "measure", "all"] | None = None,
        dynamical_decoupling: Literal["XX", "XpXm", "XY4"] | None = None,
        options: dict[str, Any] | None = None,
        max_circuits: int | None = 1000,
        timeout: float | None = None,
        retries: int = 5,
        backoff: float = 1.0,
        jobs_file: str | Path | None = "data/jobs.json",
    ) -> None:
        if not 1 <= shots <= MAX_EXECUTIONS:
            raise ValueError(f"Invalid shots: {shots}; it must be between 1 and {MAX_EXECUTIONS}, the limit of one job")
        given = dict(options or {})
        if twirling is not None:
            enabled = {"enable_gates": twirling != "measure", "enable_measure": twirling != "gates"}
            given["twirling"] = enabled | given.get("twirling", {})
        if dynamical_decoupling is not None:
            chosen = {"enable": True, "sequence_type": dynamical_decoupling}
            given["dynamical_decoupling"] = chosen | given.get("dynamical_decoupling", {})
        self._batch = _BatchSampler(backend, instance, shots, given)
        super().__init__(
            self._batch,
            max_circuits=max_circuits,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            jobs_file=jobs_file,
        )
        self._batch.jobs_file = self.jobs_file

    @property
    def service(self) -> Any:
        """The ``QiskitRuntimeService``, connected at first use. Tests can set another one before that.

        Such a service needs the methods ``backend(name)``, ``backends()``, ``least_busy()`` and ``job(job_id)``. If it
        returns a fake backend, qiskit-ibm-runtime runs the circuits in its local testing mode.
        """
        with self._guard():
            return self._batch.service

    @service.setter
    def service(self, service: Any) -> None:
        self._batch._service = service

    def close(self) -> None:
        """Close the batch. Its jobs still finish; the next job opens another batch."""
        with self._guard():
            self._batch.close()

    def qpu_seconds(self, circuit: QuantumCircuit, num_circuits: int, shots: int | None = None) -> float:
        """Estimate the QPU seconds of a request on this backend; see the function :func:`qpu_seconds`.

        Args:
            circuit: circuit that is transpiled for the backend; parameters may be unbound.
            num_circuits: number of circuits in the request, at least 1.
            shots: shots per circuit. Default: None, the sampler's.
        """
        shots = self._executed(shots or self._batch.shots)
        per_job = min(self.max_circuits or num_circuits, MAX_EXECUTIONS // shots)
        delay = self._batch.options().execution.rep_delay
        return qpu_seconds(self.backend, circuit, num_circuits, shots, math.ceil(num_circuits / per_job), delay)

    def _executed(self, shots: int) -> int:
        """Number of shots that run if ``shots`` are requested: twirling rounds up."""
        from qiskit_ibm_runtime.executor.calculate_twirling_shots import calculate_twirling_shots

        twirling = self._batch.options().twirling
        if not (twirling.enable_gates or twirling.enable_measure):
            return shots
        return math.prod(calculate_twirling_shots(shots, twirling.num_randomizations, twirling.shots_per_randomization))

    def _shots_of(self, pub: SamplerPub) -> int:
        return self._executed(pub.shots or self._batch.shots)

    def _where(self) -> str:
        return f"{super()._where()} {json.dumps(self._batch.given, sort_keys=True, default=str)}"

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            scrub(error, self._batch.secrets())
            raise


class _BatchSampler(BaseSamplerV2):
    """The runtime's Sampler in a batch. It connects at first use, and connections are not pickled."""

    def __init__(self, name: str, instance: str | None, shots: int, given: dict[str, Any]) -> None:
        self.name, self.instance, self.shots, self.given = name, instance, shots, given
        self.jobs_file: JobsFile | None = None
        self._service: Any = None
        self._backend: Any = None
        self._batch: Any = None

    @property
    def service(self) -> Any:
        if self._service is None:
            try:
                from qiskit_ibm_runtime import QiskitRuntimeService
                from qiskit_ibm_runtime.accounts.exceptions import AccountNotFoundError
            except ModuleNotFoundError as error:
                raise missing_runtime(error) from error
            try:
                self._service = QiskitRuntimeService(instance=self.instance)
            except AccountNotFoundError as error:
                raise RuntimeError(NO_ACCOUNT) from error
        return self._service

    @property
    def backend(self) -> Any:
        if self._backend is None:
            name = self._recorded() if self.name == "least_busy" else self.name
            try:
                self._backend = self.service.backend(name) if name else self.service.least_busy()
            except QiskitBackendNotFoundError as error:
                available = ", ".join(sorted(backend.name for backend in self.service.backends())) or "none"
                where = f" (named in {self.jobs_file.path})" if name != self.name and self.jobs_file else ""
                text = f"Invalid backend: {name or self.name!r}{where}; this account has: {available}"
                raise ValueError(text) from error
        return self._backend

    def _recorded(self) -> str:
        """The backend of the latest job in the jobs file, so that "least_busy" does not abandon its jobs, or ""."""
        entries = list(self.jobs_file.read().values()) if self.jobs_file else []
        name = next((entry["backend"] for entry in reversed(entries) if entry.get("backend")), "")
        if name and self.jobs_file:
            log.warning("Using backend %s, because %s holds jobs of it", name, self.jobs_file.path)
        return name

    def options(self) -> Any:
        """The runtime's ``SamplerOptions``.

        Raises:
            ValueError: for fields that they do not have.
        """
        try:
            from qiskit_ibm_runtime.options_models.sampler import SamplerOptions
        except ModuleNotFoundError as error:
            raise missing_runtime(error) from error
        try:
            return SamplerOptions.model_validate({"default_shots": self.shots} | self.given)
        except ValueError as error:
            raise ValueError(f"Invalid options: {self.given}; {error}") from error

    def run(self, pubs: Iterable[SamplerPubLike], *, shots: int | None = None) -> SamplerJob:
        """Submit one job."""
        from qiskit_ibm_runtime import Batch
        from qiskit_ibm_runtime.executor_sampler import Sampler

        options = self.options()
        if self._batch is None or self._batch.status() == "Closed":  # the service closes a batch after some hours
            self._batch = Batch(backend=self.backend)
            atexit.register(_close, weakref.ref(self))
        return Sampler(mode=self._batch, options=options).run(pubs, shots=shots)

    def job(self, job_id: str) -> Any:
        """A job of this account by its id.

        Raises:
            LookupError: if the service does not know it.
        """
        from qiskit_ibm_runtime.exceptions import RuntimeJobNotFound

        try:
            return self.service.job(job_id)
        except RuntimeJobNotFound as error:
            raise LookupError(f"Unknown job: {job_id}") from error

    def close(self) -> None:
        """Close the batch."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()

    def secrets(self) -> set[str]:
        """The keys that no text may show."""
        found = {os.environ.get("QISKIT_IBM_TOKEN")}
        with suppress(AttributeError):  # not connected, or another service
            found.add((self._service.active_account() or {}).get("token"))
        with suppress(OSError, ValueError, AttributeError):  # none is saved; the runtime itself would make the file
            saved = json.loads((Path.home() / ".qiskit" / "qiskit-ibm.json").read_text())
            found |= {account.get("token") for account in saved.values()}
        return {secret for secret in found if secret and len(secret) >= 8}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_service": None, "_backend": None, "_batch": None}


def qpu_seconds(
    backend: Any, circuit: QuantumCircuit, num_circuits: int, shots: int, jobs: int = 1, rep_delay: float | None = None
) -> float:
    """Estimate the seconds for which a request occupies the device, by IBM's formula.

    The estimate is jobs * 2 s + num_circuits * shots * (duration of the circuit + rep_delay). Twirling, decoupling and
    resets come on top. The service's own estimate is ``usage_estimation`` of a submitted job.

    Args:
        backend: a real or fake backend, with durations in its target.
        circuit: circuit that is transpiled for the backend; parameters may be unbound.
        num_circuits: number of circuits, at least 0.
        shots: shots per circuit.
        jobs: number of jobs that the circuits are split into. Default: 1.
        rep_delay: seconds from the end of one shot to the next. Default: None, the backend's, or 250 microseconds.

    Returns:
        Seconds.
    """
    delay = float(rep_delay if rep_delay is not None else getattr(backend, "default_rep_delay", None) or REP_DELAY)
    return jobs * JOB_OVERHEAD + num_circuits * shots * (circuit.estimate_duration(backend.target) + delay)


def _close(reference: weakref.ref[_BatchSampler]) -> None:
    if (sampler := reference()) is not None:
        try:
            sampler.close()
        except Exception as error:  # the process ends, and the service closes the batch later
            log.info("Could not close the batch (%s)", type(error).__name__)
