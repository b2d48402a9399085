"""JobsFile: ids of submitted jobs in one JSON file, found again by what was asked, in any process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_qsgd.files import atomic_write

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
        import fcntl  # not on Windows

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, even by a kill
            jobs = self.read()
            before = json.dumps(jobs)
            yield jobs
            if json.dumps(jobs) != before:
                with atomic_write(self.path) as file:
                    json.dump({"version": VERSION, "jobs": jobs}, file, indent=2)
