"""Workers on several machines: joblib's Dask backend, with errors that are told."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import joblib
from distributed import Client, KilledWorker
from distributed.comm.core import CommClosedError
from joblib._dask import DaskDistributedBackend


class DaskBackend(DaskDistributedBackend):
    """joblib's own waits forever where Dask gives up a task: its workers died several times, or the scheduler."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """At least 2: with one joblib trains in this process, not with the workers (and more may join them)."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Call back also where a task was given up."""

        def give_up(future: Future[Any]) -> None:
            if callback is not None and future.exception() is not None:
                callback(future)

        submitted = super().submit(func, callback)
        submitted.add_done_callback(give_up)
        return submitted

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a task, or its error."""
        if isinstance(out, CancelledError):
            raise out
        return out.result() if isinstance(out, Future) else super().retrieve_result_callback(out)


@contextlib.contextmanager
def dask_workers(address: str) -> Iterator[joblib.Parallel]:
    """Tasks for the workers of a Dask scheduler, each result as soon as it is there.

    Args:
        address: of the scheduler, as "tcp://127.0.0.1:8786".

    Raises:
        ConnectionError: if there is none, it has no worker after 10 s, it ends, or it gives up a task.
    """
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"No Dask scheduler at {address} ({error}); start one with: dask scheduler") from error
    with client:
        try:
            backend = DaskBackend(client=client)
            options: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1}
            with joblib.Parallel(-1, backend=backend, **options) as parallel:
                yield parallel
        except TimeoutError as error:
            raise ConnectionError(
                f"The Dask scheduler at {address} has no workers; start some with: dask worker {address} --nthreads 1"
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise ConnectionError(f"The Dask scheduler at {address} is gone; the same command goes on") from error
        except KilledWorker as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"Dask gave up a run, whose workers died again and again: {reason}") from error
