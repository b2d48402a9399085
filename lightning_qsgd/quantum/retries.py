"""Which errors pass by themselves, and how long to wait for that."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lightning_qsgd.scrubbing import chain

# Time-out, too early, too many requests, server trouble; from 520 on: the same, as the proxy before the server says it.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
LONGEST_DELAY = 60.0  # seconds, of our own
LONGEST_RETRY_AFTER = 3600.0  # seconds, at the server's wish


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: connection lost, timed out, or one of the passing HTTP statuses."""
    return any(isinstance(link, _passing_types()) or _status(link) in PASSING_STATUS for link in chain(error))


def delay(error: BaseException, failures: int, backoff: float) -> float:
    """Seconds to wait after the given number of failures in a row (at least 1).

    ``backoff`` doubled with each failure, at most 60 s, times a random factor between 1/2 and 1, so that clients which
    failed together do not return together; but never less than the server's Retry-After (up to an hour).
    """
    seconds = min(backoff * 2 ** (failures - 1), LONGEST_DELAY) * random.uniform(0.5, 1.0)
    return max(seconds, *(min(_retry_after(link), LONGEST_RETRY_AFTER) for link in chain(error)))


def _passing_types() -> tuple[type[BaseException], ...]:
    types: list[type[BaseException]] = [ConnectionError, TimeoutError]
    requests: Any = sys.modules.get("requests.exceptions")  # an error of requests can only come from a loaded requests
    if requests is not None:
        types += [requests.ConnectionError, requests.Timeout, requests.ChunkedEncodingError, requests.RetryError]
    return tuple(types)


def _status(error: BaseException) -> Any:
    status = getattr(error, "status_code", None)
    return status if status in PASSING_STATUS else getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(error: BaseException) -> float:
    """Seconds that the response asks to wait: it gives a number, or a date."""
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
