"""Train on several machines with joblib's Dask backend, and report its errors."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import joblib
from distributed import Client, KilledWorker
from distributed.comm.core import CommClosedError
from joblib._dask import DaskDistributedBackend


class DaskBackend(DaskDistributedBackend):
    """joblib's backend, except that it does not wait forever if Dask gives up a task or the scheduler ends."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """At least 2: with 1, joblib would train in this process. More workers may join later."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Submit a task, and call back even if Dask gives it up."""

        def give_up(future: Future[Any]) -> None:
            if callback is not None and future.exception() is not None:
                callback(future)

        submitted = super().submit(func, callback)
        submitted.add_done_callback(give_up)
        return submitted

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result of a task, or raise its error."""
        if isinstance(out, CancelledError):
            raise out
        return out.result() if isinstance(out, Future) else super().retrieve_result_callback(out)


@contextlib.contextmanager
def dask_workers(address: str) -> Iterator[joblib.Parallel]:
    """Run tasks on the workers of a Dask scheduler, and return each result as soon as it is ready.

    Args:
        address: address of the scheduler, such as "tcp://127.0.0.1:8786".

    Raises:
        ConnectionError: if there is no scheduler, it has no worker after 10 s, it ends, or it gives up a task.
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
            reason = "has ended; run the same command again to continue"
            raise ConnectionError(f"The Dask scheduler at {address} {reason}") from error
        except KilledWorker as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(f"Dask gave up a run, because its workers died repeatedly: {reason}") from error
