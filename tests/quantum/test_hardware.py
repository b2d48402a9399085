import inspect
import pickle
import sys
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from qiskit import transpile
from qiskit.primitives import BaseSamplerV2
from qiskit.providers.exceptions import QiskitBackendNotFoundError
from qiskit_ibm_runtime.accounts import management
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.api.session import RetrySession
from qiskit_ibm_runtime.exceptions import IBMRuntimeError, RuntimeJobNotFound
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeQuitoV2
from qiskit_ibm_runtime.fake_provider.local_service import QiskitRuntimeLocalService

from lightning_qsgd.quantum import IBMSampler, QuantumNetwork, superposition_circuit
from lightning_qsgd.quantum.hardware import qpu_seconds
from lightning_qsgd.quantum.jobs import JobsFile
from lightning_qsgd.quantum.reliable import PASSING_STATUS, is_passing
from lightning_qsgd.scrubbing import chain

ANSATZ = superposition_circuit(3, 1)
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(5, 3)), RNG.normal(size=ANSATZ.num_weights)
KEY = "an-api-key-that-nobody-may-see-0123456789"


class Service:
    """An account with two fake backends; circuits run in the local testing mode of qiskit-ibm-runtime."""

    def __init__(self):
        self.known, self.errors, self.devices = {}, [], [FakeManilaV2(), FakeQuitoV2()]

    def backend(self, name):
        if self.errors:
            raise self.errors.pop(0)
        for backend in self.devices:
            if backend.name == name:
                return backend
        raise QiskitBackendNotFoundError("No backend matches the criteria.")

    def backends(self):
        return self.devices

    def least_busy(self):
        return self.devices[0]

    def job(self, job_id):
        if job_id not in self.known:
            raise RuntimeJobNotFound(f"Job not found: {job_id}")
        return self.known[job_id]

    def active_account(self):
        return {"token": KEY}


@pytest.fixture
def service(monkeypatch, tmp_path):
    """No account on this machine, and a service that remembers the jobs of the local testing mode."""
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none.json"))
    monkeypatch.setattr("lightning_qsgd.quantum.reliable.time.sleep", lambda seconds: None)
    service, original = Service(), QiskitRuntimeLocalService._run_executor

    def remembering(self, *args, **kwargs):
        job = original(self, *args, **kwargs)
        service.known[job.job_id()] = job
        return job

    monkeypatch.setattr(QiskitRuntimeLocalService, "_run_executor", remembering)
    return service


@pytest.fixture
def make(service, tmp_path):
    def made(**arguments):
        sampler = IBMSampler(**{"backend": "fake_manila", "jobs_file": tmp_path / "jobs.json"} | arguments)
        sampler.service = service
        return sampler

    return made


def test_circuits_run_in_one_batch(make, service):
    sampler = make(shots=2000, max_circuits=2)
    network = QuantumNetwork(ANSATZ, sampler)
    assert sampler._batch._batch is None  # nothing is opened before the first job
    noisy = network.probabilities(INPUTS, WEIGHTS)
    batch = sampler._batch._batch
    distance = np.abs(noisy - QuantumNetwork(ANSATZ).probabilities(INPUTS, WEIGHTS)).sum(-1) / 2
    assert distance.max() < 0.15
    assert len(service.known) == 3  # 2 + 2 + 1 circuits
    assert network.shots == 5 * 2000
    network.probabilities(INPUTS[:1], WEIGHTS)
    assert sampler._batch._batch is batch
    sampler.close()
    assert not batch._active
    network.probabilities(INPUTS[:1], WEIGHTS)
    assert sampler._batch._batch not in (batch, None)


def test_a_batch_that_has_ended_is_replaced(make, monkeypatch):
    sampler = make(shots=8)
    network = QuantumNetwork(ANSATZ, sampler)
    network.probabilities(INPUTS[:1], WEIGHTS)
    ended = sampler._batch._batch
    monkeypatch.setattr(ended, "status", lambda: "Closed")
    network.probabilities(INPUTS[:1], WEIGHTS)
    assert sampler._batch._batch is not ended


def test_another_sampler_collects_the_jobs(make, service, tmp_path):
    sampler = make(shots=64)
    network = QuantumNetwork(ANSATZ, sampler)
    rows = np.concatenate([INPUTS, np.tile(WEIGHTS, (5, 1))], 1)
    job = sampler.run([(network.qnn.circuit, rows)])  # and then the process dies
    assert len(JobsFile(tmp_path / "jobs.json").read()) == 1
    other = make(shots=64, dynamical_decoupling="XX").run([(network.qnn.circuit, rows)])  # another request
    assert len(service.known) == 2
    again = make(shots=64)
    result = again.run([(QuantumNetwork(ANSATZ, again).qnn.circuit, rows)]).result()
    assert len(service.known) == 2
    np.testing.assert_array_equal(result[0].data.meas.array, job.result()[0].data.meas.array)
    assert other.running()
    service.known.clear()  # a job that the service lost is submitted again
    make(shots=64, dynamical_decoupling="XX").run([(network.qnn.circuit, rows)]).result()
    assert len(service.known) == 1


def test_least_busy_stays_with_recorded_jobs(make, tmp_path):
    assert make(backend="least_busy").backend.name == "fake_manila"
    JobsFile(tmp_path / "jobs.json").put("key", "id", backend="fake_quito")
    assert make(backend="least_busy").backend.name == "fake_quito"
    JobsFile(tmp_path / "jobs.json").put("key", "id", backend="fake_gone")
    with pytest.raises(ValueError, match=r"'fake_gone' \(named in .*jobs.json\)"):
        _ = make(backend="least_busy").backend


@pytest.mark.parametrize(("twirling", "shots"), [(None, 101), ("gates", 128), ("measure", 128), ("all", 128)])
def test_twirling_rounds_shots_up(make, twirling, shots):
    sampler = make(shots=101, twirling=twirling)
    network = QuantumNetwork(ANSATZ, sampler)
    network.probabilities(INPUTS[:2], WEIGHTS)
    assert network.shots == 2 * shots
    options = sampler._batch.options().twirling
    assert (bool(options.enable_gates), bool(options.enable_measure)) == (
        twirling in ("gates", "all"),
        twirling in ("measure", "all"),
    )


def test_options_reach_the_runtime(make):
    sampler = make(dynamical_decoupling="XY4", options={"dynamical_decoupling": {"scheduling_method": "asap"}})
    options = sampler._batch.options()
    assert options.dynamical_decoupling.enable
    assert options.dynamical_decoupling.sequence_type == "XY4"
    assert options.dynamical_decoupling.scheduling_method == "asap"
    assert options.default_shots == 1024
    sampler = make(options={"resilience_level": 1})
    with pytest.raises(ValueError, match=r"Invalid options: \{'resilience_level': 1\}"):
        QuantumNetwork(ANSATZ, sampler).probabilities(INPUTS, WEIGHTS)


@pytest.mark.parametrize("shots", [0, 10_000_001])
def test_impossible_shots_are_refused(shots):
    with pytest.raises(ValueError, match=f"Invalid shots: {shots}; it must be between 1 and 10000000"):
        IBMSampler(shots=shots)


def test_executions_limit_the_jobs(make, service):
    sampler = make(shots=10)
    sampler.max_executions = 25
    QuantumNetwork(ANSATZ, sampler).probabilities(INPUTS, WEIGHTS)
    assert len(service.known) == 3
    with pytest.raises(ValueError, match="Invalid shots: 26; one job takes at most 25"):
        sampler.run(
            [(ANSATZ.circuit.measure_all(inplace=False), np.zeros((1, ANSATZ.circuit.num_parameters)))], shots=26
        )


# Accounts


def test_nothing_connects_before_it_is_needed(service):
    sampler = IBMSampler()
    assert sampler._batch._service is None
    with pytest.raises(RuntimeError, match=r"No IBM Quantum account found.*save_account.*QISKIT_IBM_TOKEN"):
        _ = sampler.backend


def test_unknown_backends_are_refused_with_a_list(make):
    with pytest.raises(ValueError, match="Invalid backend: 'ibm_nowhere'; this account has: fake_manila, fake_quito"):
        _ = make(backend="ibm_nowhere").backend


def test_without_the_runtime_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install qiskit-ibm-runtime"):
        _ = IBMSampler().backend


def test_the_key_is_no_argument_and_in_no_configuration(make):
    assert not {"token", "key", "service"} & set(inspect.signature(IBMSampler).parameters)
    parser = ArgumentParser()
    parser.add_argument("--sampler", type=BaseSamplerV2)
    config = parser.parse_args(["--sampler=lightning_qsgd.quantum.IBMSampler", "--sampler.backend=ibm_x"])
    assert parser.instantiate(config).sampler._batch.name == "ibm_x"
    sampler = make(shots=8)
    network = QuantumNetwork(ANSATZ, sampler)
    network.probabilities(INPUTS[:1], WEIGHTS)
    state = pickle.dumps(network)
    assert KEY.encode() not in state
    copy = pickle.loads(state)
    assert copy.sampler._batch._service is copy.sampler._batch._backend is copy.sampler._batch._batch is None
    assert copy.sampler.shots == 8
    assert KEY not in repr(sampler) + str(vars(sampler)) + str(vars(sampler._batch))


def deep(error):
    error.__context__ = ValueError(f"GET https://host/?apikey={KEY} with Bearer abc.def-{KEY}")
    error.__suppress_context__ = True
    return error


@pytest.mark.parametrize("source", ["account", "environment"])
def test_the_key_is_cut_out_of_errors_and_logs(source, make, service, monkeypatch, caplog):
    if source == "environment":
        monkeypatch.setenv("QISKIT_IBM_TOKEN", KEY)
        monkeypatch.delattr(Service, "active_account")
    service.errors = [ConnectionError(f"lost {KEY}"), deep(IBMRuntimeError(f"bad key {KEY}"))]
    with pytest.raises(IBMRuntimeError) as caught:
        _ = make().backend
    text = "".join(traceback.format_exception(caught.value)) + str([vars(link) for link in chain(caught.value)])
    text += str([str(link) for link in chain(caught.value)])
    assert KEY not in text
    assert "bad key ***" in text
    assert "Bearer ***" in text
    assert KEY not in caplog.text
    assert "lost ***" in caplog.text

    def failing(self, *args, **kwargs):
        raise IBMRuntimeError(f"refused {KEY}")

    monkeypatch.setattr(QiskitRuntimeLocalService, "_run_executor", failing)
    with pytest.raises(IBMRuntimeError, match=r"refused \*\*\*"):
        QuantumNetwork(ANSATZ, make()).probabilities(INPUTS, WEIGHTS)


# Estimates


def test_qpu_seconds(make):
    backend = FakeManilaV2()
    circuit = transpile(ANSATZ.circuit.measure_all(inplace=False), backend, seed_transpiler=0)
    duration = circuit.estimate_duration(backend.target)
    assert 1e-6 < duration < 20e-6
    assert qpu_seconds(backend, circuit, 625, 1024) == pytest.approx(2 + 625 * 1024 * (duration + 250e-6))
    assert qpu_seconds(backend, circuit, 10, 100, jobs=3, rep_delay=0) == pytest.approx(6 + 1000 * duration)
    sampler = make(shots=1024, max_circuits=300)
    assert sampler.qpu_seconds(circuit, 625) == pytest.approx(3 * 2 + 625 * 1024 * (duration + 250e-6))
    sampler = make(twirling="all", options={"execution": {"rep_delay": 1e-4}})
    assert sampler.qpu_seconds(circuit, 10, 101) == pytest.approx(2 + 10 * 128 * (duration + 1e-4))


class Failing(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    calls: ClassVar[list[int]] = []

    def do_GET(self):
        self.calls.append(status := int(self.path[1:]))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_what_the_runtimes_session_has_retried_is_not_retried_again():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    Thread(target=server.serve_forever, daemon=True).start()
    session = RetrySession(f"http://127.0.0.1:{server.server_port}", retries_total=2, backoff_factor=0)
    session.trust_env = False  # no proxy
    try:
        for status in sorted(PASSING_STATUS):
            Failing.calls.clear()
            with pytest.raises(RequestsApiError) as caught:
                session.get(f"/{status}")
            by_session = len(Failing.calls) == 3
            assert by_session == (status not in (408, 425, 429, 523)), status
            assert is_passing(caught.value) == (not by_session), status
    finally:
        server.shutdown()
        server.server_close()
