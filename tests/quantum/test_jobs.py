import json
import logging
import signal

import numpy as np
import pytest

from lightning_qsgd.quantum import ReliableSampler, superposition_circuit
from lightning_qsgd.quantum.jobs import JobsFile
from tests.quantum.folder_sampler import ROWS, SMALL, FindableSampler, FolderSampler, bits, expected
from tests.runs import context


def test_entries_are_written_before_waiting_and_dropped_when_done(tmp_path):
    path = tmp_path / "new" / "jobs.json"
    inner = FindableSampler()
    sampler = ReliableSampler(inner, max_circuits=2, jobs_file=path)
    job = sampler.run([(SMALL, ROWS)])
    entries = json.loads(path.read_text())["jobs"]
    assert [entry["job_id"] for entry in entries.values()] == ["job-0", "job-1", "job-2"]
    assert [entry["circuits"] for entry in entries.values()] == [2, 2, 1]
    job.result()
    assert JobsFile(path).read() == {}
    assert {p.name for p in path.parent.iterdir()} == {"jobs.json", ".jobs.json.lock"}


def test_equal_requests_side_by_side_have_jobs_of_their_own(tmp_path):
    inner = FindableSampler()
    sampler = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json")
    first, second = sampler.run([(SMALL, ROWS)]), sampler.run([(SMALL, ROWS)])
    assert len(JobsFile(tmp_path / "jobs.json").read()) == 2
    first.result()
    third = sampler.run([(SMALL, ROWS)])
    second.result()
    third.result()
    assert len(inner.calls) == 3
    assert JobsFile(tmp_path / "jobs.json").read() == {}


@pytest.mark.parametrize("new_process", [True, False])
def test_hold_keeps_finished_requests_until_the_end(new_process, tmp_path):
    path = tmp_path / "jobs.json"
    inner = FindableSampler()
    same = ReliableSampler(inner, jobs_file=path)

    def calibrate(fail):
        sampler = ReliableSampler(inner, jobs_file=path) if new_process else same
        with sampler.hold():
            sampler.run([(SMALL, ROWS)]).result()
            with sampler.hold():  # within a hold, nothing of its own
                sampler.run([(SMALL, ROWS)]).result()  # equal, but not the same job
            assert len(JobsFile(path).read()) == 2
            if fail:
                raise OSError("disk full")
        sampler.run([(SMALL, ROWS[:2])]).result()

    with pytest.raises(OSError, match="disk full"):
        calibrate(fail=True)
    assert len(inner.calls) == 2
    calibrate(fail=False)
    assert len(inner.calls) == 3  # only the request after the hold
    assert JobsFile(path).read() == {}


def test_jobs_that_the_backend_forgot_are_submitted_again(tmp_path, caplog):
    inner = FindableSampler({"polls": None})
    ReliableSampler(inner, jobs_file=tmp_path / "jobs.json").run([(SMALL, ROWS)])
    inner.unknown = ("job-0",)
    result = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json").run([(SMALL, ROWS)]).result()
    np.testing.assert_array_equal(bits(result)[:, 0, 0], expected())
    assert len(inner.calls) == 2
    assert "no longer knows job job-0" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "jobs": {}}', '{"version": 1, "jobs": {"a": {}}}'])
def test_a_damaged_file_is_an_error_and_stays(text, tmp_path):
    path = tmp_path / "jobs.json"
    path.write_text(text)
    inner = FindableSampler()
    with pytest.raises(RuntimeError, match=r"jobs\.json is damaged"):
        ReliableSampler(inner, jobs_file=path).run([(SMALL, ROWS)])
    assert path.read_text() == text
    assert inner.calls == []


def test_cancel(tmp_path):
    inner = FindableSampler({"polls": None}, {"polls": None})
    job = ReliableSampler(inner, max_circuits=3, jobs_file=tmp_path / "jobs.json").run([(SMALL, ROWS)])
    assert job.running()
    job.cancel()
    assert job.cancelled()
    assert job.in_final_state()
    assert all(each.was_cancelled for each in inner.jobs)
    assert JobsFile(tmp_path / "jobs.json").read() == {}


def test_interrupt_says_which_jobs_are_left(tmp_path, caplog):
    inner = FindableSampler({"polls": [KeyboardInterrupt()]})
    sampler = ReliableSampler(inner, jobs_file=tmp_path / "jobs.json")
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        sampler.run([(SMALL, ROWS)]).result()
    assert "job-0" in caplog.text
    assert str(tmp_path / "jobs.json") in caplog.text
    assert "same command collects" in caplog.text
    sampler.run([(SMALL, ROWS)]).result()
    assert len(inner.calls) == 1


# Other processes


def _collect(folder, said, how):
    circuit = superposition_circuit(2, 1).circuit.measure_all(inplace=False)
    backend = FolderSampler(folder, slow=how == "slow", die_while_waiting=how == "die")
    sampler = ReliableSampler(backend, max_circuits=2, jobs_file=folder / "jobs.json")
    job = sampler.run([(circuit, ROWS)])
    said.send("submitted")
    said.send(job.result()[0].data.meas.array[:, 0, 0].tolist())


def process(folder, how=""):
    """A process, and what it says."""
    said, saying = context.Pipe(duplex=False)
    started = context.Process(target=_collect, args=(folder, saying, how))
    started.start()
    return started, said


def test_a_killed_process_is_continued_by_the_next_without_new_jobs(tmp_path):
    backend = FolderSampler(tmp_path)
    dying, _ = process(tmp_path, "die")
    slow, said = process(tmp_path, "slow")
    dying.join(60)
    assert dying.exitcode == 9
    assert said.recv() == "submitted"
    slow.kill()
    slow.join(60)
    assert slow.exitcode == -signal.SIGKILL
    before = backend.submitted()
    recorded = JobsFile(tmp_path / "jobs.json").read()
    assert len(recorded) == 3
    after, said = process(tmp_path)
    assert [said.recv(), said.recv()] == ["submitted", expected().tolist()]
    after.join(60)
    assert after.exitcode == 0
    assert backend.submitted() == before
    assert JobsFile(tmp_path / "jobs.json").read() == {}


def _write_entries(path, name, together):
    together.wait(60)
    for number in range(20):
        JobsFile(path).put(f"{name}-{number}", "id")
    JobsFile(path).drop([f"{name}-0"])


def test_processes_share_the_file(tmp_path):
    together, path = context.Barrier(2), tmp_path / "jobs.json"
    workers = [context.Process(target=_write_entries, args=(path, name, together)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    keys = {f"{name}-{number}" for name in "ab" for number in range(1, 20)}
    assert set(JobsFile(path).read()) == keys


def test_an_unwritable_file_fails_before_anything_is_submitted(tmp_path):
    (tmp_path / "file").write_text("")
    backend = FindableSampler()
    sampler = ReliableSampler(backend, jobs_file=tmp_path / "file" / "jobs.json")
    with pytest.raises(OSError, match="file"):
        sampler.run([(SMALL, ROWS)])
    assert backend.jobs == []


def test_a_job_that_cannot_be_recorded_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    sampler = ReliableSampler(FindableSampler(), jobs_file=tmp_path / "jobs.json")
    monkeypatch.setattr("lightning_qsgd.quantum.jobs.atomic_write", full)
    with pytest.raises(RuntimeError, match=r"Job \S+ is running, but could not be recorded .*note its id") as caught:
        sampler.run([(SMALL, ROWS)])
    assert "the same command collects" not in "".join(getattr(caught.value, "__notes__", []))
