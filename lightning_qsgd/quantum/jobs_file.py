"""JobsFile: ids of submitted jobs in one JSON file, found again by what was asked, in any process."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ControlledGate, Gate, Instruction
from qiskit.primitives.containers.sampler_pub import SamplerPub

VERSION = 1


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
        """Record a job; ``about``: what else a reader of the file wants to know."""
        with self._edited() as jobs:
            jobs[key] = {"job_id": job_id, **about}

    def drop(self, keys: Iterable[str]) -> None:
        """Forget jobs; unknown keys are ignored."""
        with self._edited() as jobs:
            for key in keys:
                jobs.pop(key, None)

    @contextmanager
    def _edited(self) -> Iterator[dict[str, dict[str, Any]]]:
        import fcntl  # not on Windows

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, even by a kill
            jobs = self.read()
            before = json.dumps(jobs)
            yield jobs
            if json.dumps(jobs) != before:
                self._write(jobs)

    def _write(self, jobs: dict[str, dict[str, Any]]) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"version": VERSION, "jobs": jobs}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def fingerprint(pubs: Iterable[SamplerPub], where: str) -> str:
    """SHA-256 of a request, equal in every process: circuits, parameter values, shots, and ``where`` it runs.

    Circuits enter as text, since the ids of Qiskit's parameters, and so its own serialisation, differ between
    processes.
    """
    digest = hashlib.sha256(where.encode())
    for pub in pubs:
        values = pub.parameter_values.as_array(pub.circuit.parameters)
        digest.update(_text(pub.circuit).encode())
        digest.update(f"{[p.name for p in pub.circuit.parameters]} {values.shape} {pub.shots}".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def _text(circuit: QuantumCircuit) -> str:
    lines = [f"{circuit.num_qubits} {[(register.name, register.size) for register in circuit.cregs]}"]
    for instruction in circuit.data:
        operation: Any = instruction.operation
        bits = [circuit.find_bit(bit).index for bit in (*instruction.qubits, *instruction.clbits)]
        name = operation.name
        if type(operation) in (Instruction, Gate, ControlledGate) and operation.definition is not None:
            name = f"({_text(operation.definition)})"  # a circuit turned into a gate: its name is a running number
        lines.append(f"{name} {len(instruction.qubits)} {bits} {[_parameter(value) for value in operation.params]}")
    return "\n".join(lines)


def _parameter(value: Any) -> str:
    if isinstance(value, QuantumCircuit):  # a block of control flow
        return _text(value)
    if isinstance(value, np.ndarray):  # a matrix: its own text would be shortened
        return f"{value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return str(value)
