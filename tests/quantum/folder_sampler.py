"""A scripted backend: a folder on disk that processes share, and samplers that do as they are told."""

import json
import os
import time
import uuid
from pathlib import Path

import numpy as np
from qiskit.primitives import BasePrimitiveJob, BaseSamplerV2, BitArray, PrimitiveJob
from qiskit.primitives.containers import DataBin, PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

from lightning_qsgd.quantum import superposition_circuit


class HttpError(Exception):
    def __init__(self, status_code, headers=None):
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code
        self.response = type("Response", (), {"status_code": status_code, "headers": headers or {}})()


def answer(pubs, default_shots=4):
    """A result that shows each row's values in its bits: bit k of all shots is set where value k is above 0."""
    results = []
    for pub in pubs:
        pub = SamplerPub.coerce(pub)
        values = pub.parameter_values.as_array(pub.circuit.parameters)
        bits = np.repeat((values > 0)[..., None, :], pub.shots or default_shots, -2)
        size = pub.circuit.cregs[0].size
        bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], size))], -1)[..., :size].astype(bool)
        shape = pub.parameter_values.shape
        data = {pub.circuit.cregs[0].name: BitArray.from_bool_array(bits, order="little")}
        results.append(SamplerPubResult(DataBin(**data, shape=shape)))
    return PrimitiveResult(results)


class Job(BasePrimitiveJob):
    """Plays ``script`` at the calls of ``result``: an error is raised, a function changes the result; then it is right.

    ``polls``: calls of ``in_final_state`` until it is done (None: never); errors among them are raised.
    """

    def __init__(self, job_id, result, script=(), polls=0, status="DONE"):
        super().__init__(job_id)
        self._result, self._script, self._polls, self._status = result, list(script), polls, status
        self.was_cancelled = False

    def in_final_state(self):
        if isinstance(self._polls, list) and self._polls:
            step = self._polls.pop(0)
            if isinstance(step, BaseException):
                raise step
            return step
        return self._polls is not None

    def result(self):
        if self._script:
            step = self._script.pop(0)
            if isinstance(step, BaseException):
                raise step
            return step(self._result)
        return self._result

    def status(self):
        return self._status

    def done(self):
        return self._status == "DONE"

    def running(self):
        return False

    def cancelled(self):
        return self.was_cancelled

    def cancel(self):
        self.was_cancelled = True


class ScriptedSampler(BaseSamplerV2):
    """``script[n]`` decides call n of ``run``: an error to raise, arguments for its ``Job``, or None: a right job."""

    shots = 4

    def __init__(self, *script):
        self.script, self.calls, self.jobs = list(script), [], []

    def run(self, pubs, *, shots=None):
        pubs = list(pubs)
        self.calls.append([SamplerPub.coerce(pub).parameter_values.size for pub in pubs])
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        self.jobs.append(Job(f"job-{len(self.jobs)}", answer(pubs), **(step or {})))
        return self.jobs[-1]


class FindableSampler(ScriptedSampler):
    """The same, and it finds its jobs again, except those in ``unknown``."""

    unknown = ()

    def job(self, job_id):
        for job in self.jobs:
            if job.job_id() == job_id and job_id not in self.unknown:
                return job
        raise KeyError(job_id)


class FolderSampler(BaseSamplerV2):
    """A backend in a folder: each job is a file with its input, and runs when it is fetched."""

    shots = 4

    def __init__(self, folder, slow=False, die_while_waiting=False):
        self.folder, self.slow, self.die_while_waiting = Path(folder), slow, die_while_waiting

    def run(self, pubs, *, shots=None):
        pubs = [SamplerPub.coerce(pub) for pub in pubs]
        job_id = uuid.uuid4().hex
        values = [pub.parameter_values.as_array(pub.circuit.parameters).tolist() for pub in pubs]
        (self.folder / f"{job_id}.job").write_text(json.dumps(values))
        return self._made(job_id, pubs)

    def job(self, job_id):
        path = self.folder / f"{job_id}.job"
        if not path.exists():
            raise KeyError(job_id)
        from lightning_qsgd.quantum import superposition_circuit

        circuit = superposition_circuit(2, 1).circuit.measure_all(inplace=False)
        return self._made(job_id, [SamplerPub.coerce((circuit, rows)) for rows in json.loads(path.read_text())])

    def submitted(self):
        return len(list(self.folder.glob("*.job")))

    def _made(self, job_id, pubs):
        job = FolderJob(lambda: answer(pubs))
        job._job_id = job_id
        job.sampler = self
        job._submit()
        return job


class FolderJob(PrimitiveJob):
    def in_final_state(self):
        if self.sampler.die_while_waiting:
            os._exit(9)  # as a kill does: no handler runs
        while self.sampler.slow:
            time.sleep(0.01)
        return super().in_final_state()


SMALL = superposition_circuit(2, 1).circuit.measure_all(inplace=False)
ROWS = np.random.default_rng(0).normal(size=(5, SMALL.num_parameters))


def bits(result, pub=0):
    return result[pub].data.meas.array


def expected(rows=ROWS):
    """What the scripted samplers answer: see ``answer``."""
    return ((rows[:, 0] > 0) + 2 * (rows[:, 1] > 0)).astype(np.uint8)
