import itertools
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from qiskit import QuantumCircuit
from qiskit.circuit import Gate
from qiskit.primitives import BaseSamplerV2
from qiskit.primitives.containers import DataBin, PrimitiveResult, SamplerPubResult

from lightning_qsgd.quantum import (
    AerSampler,
    ExactSampler,
    FakeBackendSampler,
    QuantumNetwork,
    ReliableSampler,
    superposition_circuit,
)
from lightning_qsgd.quantum.jobs import JobsFile, split
from lightning_qsgd.quantum.reliable import delay, is_passing
from tests.quantum.folder_sampler import (
    ROWS,
    SMALL,
    FindableSampler,
    HttpError,
    ScriptedSampler,
    bits,
    expected,
)

ANSATZ = superposition_circuit(4, 2)
RNG = np.random.default_rng(0)
INPUTS, WEIGHTS = RNG.normal(size=(7, 4)), RNG.normal(size=12)


@pytest.fixture
def naps(monkeypatch):
    """Seconds slept between tries; nothing sleeps for real."""
    times = []
    monkeypatch.setattr("lightning_qsgd.quantum.reliable.time.sleep", times.append)
    return times


# Splitting


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=5),
    st.integers(1, 12),
    st.integers(5, 40),
)
def test_split_keeps_order_and_limits_with_few_jobs(pubs, max_circuits, max_executions):
    sizes, shots = zip(*pubs)
    jobs = split(sizes, shots, max_circuits, max_executions)
    rows = [(p.pub, row) for job in jobs for p in job for row in range(p.start, p.stop)]
    assert rows == [(pub, row) for pub, size in enumerate(sizes) for row in range(size)]
    for job in jobs:
        assert 0 < sum(p.stop - p.start for p in job) <= max_circuits
        assert sum((p.stop - p.start) * shots[p.pub] for p in job) <= max_executions
    for job, following in itertools.pairwise(jobs):  # no room was left for the next row
        circuits = sum(p.stop - p.start for p in job)
        executions = sum((p.stop - p.start) * shots[p.pub] for p in job)
        assert circuits == max_circuits or executions + shots[following[0].pub] > max_executions


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 9))
def test_exact_probabilities_do_not_depend_on_the_split(max_circuits):
    whole = QuantumNetwork(ANSATZ, ExactSampler()).probabilities(INPUTS, WEIGHTS)
    parts = QuantumNetwork(ANSATZ, ReliableSampler(ExactSampler(), max_circuits=max_circuits))
    np.testing.assert_array_equal(parts.probabilities(INPUTS, WEIGHTS), whole)


@pytest.mark.parametrize("max_circuits", [1, 3, 100])
def test_bits_are_joined_in_the_order_of_rows_and_pubs(max_circuits):
    inner = ScriptedSampler()
    sampler = ReliableSampler(inner, max_circuits=max_circuits)
    progress = []
    sampler.on_progress = lambda done, total: progress.append((done, total))
    grid = np.stack([ROWS, -ROWS])  # a PUB of two dimensions
    result = sampler.run([(SMALL, ROWS), (SMALL, grid, 8), (SMALL, ROWS[0])]).result()
    np.testing.assert_array_equal(bits(result)[..., 0], np.repeat(expected()[:, None], 4, 1))
    assert bits(result, 1).shape == (2, 5, 8, 1)
    np.testing.assert_array_equal(bits(result, 1)[:, :, 0, 0], [expected(), expected(-ROWS)])
    assert result[2].data.meas.shape == ()
    assert sum(map(sum, inner.calls)) == 16
    assert max(map(sum, inner.calls)) <= max_circuits
    assert progress[-1] == (16, 16)
    assert len(progress) == len(inner.calls) == -(-16 // max_circuits)


def test_noise_is_reproducible_and_delegated():
    def run():
        sampler = ReliableSampler(AerSampler(shots=64, seed=1), max_circuits=3)
        network = QuantumNetwork(ANSATZ, sampler)
        return [network.probabilities(INPUTS, WEIGHTS, step=step) for step in (0, 1, 0)]

    first, second, again = run()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(run()[0], first)
    sampler = ReliableSampler(FakeBackendSampler(shots=64))
    assert sampler.backend is sampler.sampler.backend
    assert sampler.shots == 64
    assert ReliableSampler(ExactSampler()).backend is None
    copy = pickle.loads(pickle.dumps(QuantumNetwork(ANSATZ, sampler)))
    assert copy.probabilities(INPUTS, WEIGHTS).shape == (7, 16)


def test_from_the_command_line(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--sampler", type=BaseSamplerV2)
    arguments = ["--sampler=lightning_qsgd.quantum.ReliableSampler", "--sampler.max_circuits=2"]
    config = parser.parse_args([*arguments, "--sampler.sampler=lightning_qsgd.quantum.AerSampler"])
    sampler = parser.instantiate(config).sampler
    assert (type(sampler), type(sampler.sampler), sampler.max_circuits) == (ReliableSampler, AerSampler, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_circuits": 0}, "Invalid max_circuits: 0"),
        ({"timeout": 0}, "Invalid timeout: 0"),
        ({"retries": -1}, "Invalid retries: -1"),
        ({"backoff": -1.0}, "Invalid backoff: -1.0"),
        ({"jobs_file": "jobs.json"}, "'jobs.json'; ScriptedSampler cannot find jobs again"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReliableSampler(ScriptedSampler(), **arguments)


def test_impossible_requests_are_refused():
    sampler = ReliableSampler(ScriptedSampler())
    sampler.max_executions = 100
    with pytest.raises(ValueError, match="Invalid shots: 101; one job takes at most 100"):
        sampler.run([(SMALL, ROWS)], shots=101)
    for pubs in ([], [(SMALL, ROWS[:0])]):
        with pytest.raises(ValueError, match="Invalid pubs"):
            sampler.run(pubs)
    assert sampler.sampler.calls == []
    sampler.run([(SMALL, ROWS)], shots=40).result()
    assert sampler.sampler.calls == [[2], [2], [1]]


# Retries


def raised(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = True  # as "raise ... from None" does
    return error


PASSING = [
    ConnectionError("reset"),
    TimeoutError("slow"),
    requests.ConnectionError("no route"),
    requests.ReadTimeout("slow"),
    *(HttpError(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    raised(RuntimeError("wrapped"), cause=HttpError(429)),
    raised(RuntimeError("hidden"), context=raised(ValueError("twice"), context=HttpError(503))),
]
AGAIN = requests.exceptions.RetryError("too many 503")  # its session has retried already
LASTING = [
    AGAIN, raised(RuntimeError("wrapped"), cause=AGAIN, context=HttpError(503)), ValueError("circuit"),
    RuntimeError("429"), HttpError(400), HttpError(401), HttpError(404), OSError("disk"),
]  # fmt: skip


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing_errors_are_retried_with_growing_delays(error, naps):
    assert is_passing(error)
    inner = ScriptedSampler(error, error, error)
    result = ReliableSampler(inner, retries=3, backoff=1.0).run([(SMALL, ROWS)]).result()
    np.testing.assert_array_equal(bits(result)[:, 0, 0], expected())
    for nap, longest in zip(naps, (1, 2, 4)):
        assert longest / 2 <= nap <= longest
    assert len(inner.calls) == 4


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting_errors_are_raised_at_once(error, naps):
    assert not is_passing(error)
    inner = ScriptedSampler(error)
    with pytest.raises(type(error)) as caught:
        ReliableSampler(inner).run([(SMALL, ROWS)])
    assert caught.value is error
    assert (len(inner.calls), naps) == (1, [])


def test_giving_up_names_tries_reason_jobs_and_way_out(naps, tmp_path):
    inner = FindableSampler(None, *[HttpError(429)] * 3)
    sampler = ReliableSampler(inner, max_circuits=3, retries=2, jobs_file=tmp_path / "jobs.json")
    with pytest.raises(RuntimeError) as caught:
        sampler.run([(SMALL, ROWS)])
    text = str(caught.value)
    for part in ("3 tries", "HttpError: HTTP 429", "job-0", str(tmp_path / "jobs.json"), "same command collects"):
        assert part in text
    sampler.run([(SMALL, ROWS)]).result()
    assert inner.calls == [[3], [2], [2], [2], [2]]  # the first job was not submitted again
    with pytest.raises(RuntimeError, match=r"Gave up after 1 tries.*raise retries"):
        ReliableSampler(ScriptedSampler(HttpError(500)), retries=0).run([(SMALL, ROWS)])


def test_retry_after_is_respected(monkeypatch):
    assert delay(HttpError(429, {"Retry-After": "17"}), 1, 1.0) == 17
    assert delay(raised(RuntimeError(), cause=HttpError(429, {"Retry-After": "17"})), 1, 1.0) == 17
    assert delay(HttpError(429, {"Retry-After": "1e9"}), 1, 1.0) == 3600
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < delay(HttpError(503, {"Retry-After": date}), 1, 1.0) <= 100
    for nonsense in ("soon", "-5", ""):
        assert 0.5 <= delay(HttpError(503, {"Retry-After": nonsense}), 1, 1.0) <= 1
    assert 30 <= delay(HttpError(503), 1000, 1.0) <= 60
    assert delay(HttpError(503), 3, 0.0) == 0
    monkeypatch.setattr("lightning_qsgd.quantum.reliable.random.uniform", lambda low, high: high)
    assert [delay(HttpError(503), n, 0.5) for n in (1, 2, 3)] == [0.5, 1, 2]


def test_errors_while_waiting(naps):
    lost = ConnectionError("lost")
    # Found again: fetched anew from the same job, and each success ends the count of failures.
    inner = FindableSampler({"polls": [lost, False, lost, False, lost, True], "script": [lost]})
    sampler = ReliableSampler(inner, retries=2)
    np.testing.assert_array_equal(bits(sampler.run([(SMALL, ROWS)]).result())[:, 0, 0], expected())
    assert len(inner.jobs) == 1
    # Not found again: submitted anew.
    inner = ScriptedSampler({"polls": [lost], "script": [lost]}, {"script": [lost]})
    sampler = ReliableSampler(inner, retries=3)
    np.testing.assert_array_equal(bits(sampler.run([(SMALL, ROWS)]).result())[:, 0, 0], expected())
    assert len(inner.jobs) == 3
    inner = ScriptedSampler(*({"polls": [False], "script": [lost]} for _ in range(9)))
    with pytest.raises(RuntimeError, match="Gave up after 4 tries: ConnectionError: lost"):
        ReliableSampler(inner, retries=3).run([(SMALL, ROWS)]).result()
    assert len(inner.jobs) == 4


def test_time_out(naps, monkeypatch, tmp_path):
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr("lightning_qsgd.quantum.reliable.time.monotonic", lambda: next(clock))
    hanging = {"polls": None}
    inner = ScriptedSampler(hanging, hanging)
    np.testing.assert_array_equal(
        bits(ReliableSampler(inner, timeout=30).run([(SMALL, ROWS)]).result())[:, 0, 0], expected()
    )
    assert [job.was_cancelled for job in inner.jobs] == [True, True, False]
    with pytest.raises(RuntimeError, match="Gave up after 2 tries: TimeoutError: Job job-1 did not finish within 30 s"):
        ReliableSampler(ScriptedSampler(hanging, hanging), timeout=30, retries=1).run([(SMALL, ROWS)]).result()
    inner = FindableSampler(hanging)
    sampler = ReliableSampler(inner, timeout=30, jobs_file=tmp_path / "jobs.json")
    with pytest.raises(TimeoutError, match=r"Job job-0 .*jobs\.json: job-0; the same command collects"):
        sampler.run([(SMALL, ROWS)]).result()
    assert not inner.jobs[0].was_cancelled
    inner.jobs[0]._polls = 0
    np.testing.assert_array_equal(bits(sampler.run([(SMALL, ROWS)]).result())[:, 0, 0], expected())
    assert len(inner.jobs) == 1
    assert JobsFile(tmp_path / "jobs.json").read() == {}


# Results


def rebuilt(result, **changes):
    data = {"meas": result[0].data.meas} | changes
    return PrimitiveResult([SamplerPubResult(DataBin(**{name: value for name, value in data.items() if value}))])


LIES = {
    "rows of shape": lambda result: rebuilt(result, meas=result[0].data.meas[:-1]),
    "shots instead of 4": lambda result: rebuilt(result, meas=result[0].data.meas.slice_shots([0, 1])),
    "register 'meas' is missing": lambda result: rebuilt(result, meas=None, c=result[0].data.meas),
    "1 bits instead of 2 in register": lambda result: rebuilt(result, meas=result[0].data.meas.slice_bits([0])),
    "0 results for 1": lambda result: PrimitiveResult([]),
    "TypeError|len": lambda result: None,
}


@pytest.mark.parametrize("message", LIES)
def test_wrong_results_are_raised_at_once(message, naps, tmp_path):
    inner = FindableSampler({"script": [LIES[message]]})
    sampler = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json")
    with pytest.raises(RuntimeError, match=rf"Job job-0 returned an invalid result: .*({message})"):
        sampler.run([(SMALL, ROWS)]).result()
    assert len(inner.calls) == 1
    sampler.run([(SMALL, ROWS)]).result()  # the wrong job was forgotten
    assert len(inner.calls) == 2


def test_jobs_of_one_request_with_different_shots_are_refused():
    inner = ScriptedSampler(None, {"script": [LIES["shots instead of 4"]]})
    inner.shots = None  # unknown
    with pytest.raises(RuntimeError, match=r"returned \[2, 4\] shots"):
        ReliableSampler(inner, max_circuits=3).run([(SMALL, ROWS)]).result()


def test_a_failed_job_is_reported_and_submitted_anew_next_time(naps, tmp_path):
    inner = FindableSampler({"script": [ValueError("cryostat")], "status": "ERROR"})
    sampler = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json")
    with pytest.raises(RuntimeError, match=r"Job job-0 failed \(ValueError: cryostat\)"):
        sampler.run([(SMALL, ROWS)]).result()
    assert JobsFile(tmp_path / "jobs.json").read() == {}
    sampler.run([(SMALL, ROWS)]).result()
    assert len(inner.calls) == 2
    # An error that is not the job's: its entry stays.
    inner = FindableSampler({"script": [HttpError(401)]})
    sampler = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json")
    with pytest.raises(HttpError, match="401") as caught:
        sampler.run([(SMALL, ROWS)]).result()
    assert "same command collects" in caught.value.__notes__[0]
    sampler.run([(SMALL, ROWS)]).result()
    assert len(inner.calls) == 1


def test_local_errors_keep_their_text():
    circuit = QuantumCircuit(1)
    circuit.append(Gate("mystery", 1, []), [0])
    circuit.measure_all()
    with pytest.raises(RuntimeError, match=r"failed \(AerError: .*mystery"):
        ReliableSampler(AerSampler()).run([circuit]).result()
