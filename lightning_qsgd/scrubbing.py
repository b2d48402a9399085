"""Secrets cut out of texts and errors. Below all levels: imports nothing of this package."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

_NAMES = re.compile(r"(?i)(token|secret|passw|credential|(^|_)(key|pat|auth|pwd)$)|apikey$")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, ``raise ... from None`` included (clients hide the response that way)."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__context__, link.__cause__]


def secrets_of_environment() -> list[str]:
    """Values of environment variables that are named like secrets, such as QISKIT_IBM_TOKEN, of 8 letters or more.

    PWD is the shell's current folder.
    """
    named = (value for name, value in os.environ.items() if name != "PWD" and _NAMES.search(name))
    return [value for value in named if len(value) >= 8]


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with ``***`` for secrets, those of the environment, and whatever follows "Bearer" or "apikey"."""
    for secret in sorted({*secrets, *secrets_of_environment()}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"(?i)\b(bearer|apikey)([ =:]+)[^\s&'\"]+", r"\1\2***", text)


def scrub(error: BaseException, secrets: Iterable[str] = ()) -> None:
    """:func:`scrubbed` for an error and all that led to it, in place."""
    secrets = list(secrets)

    def clean(value: Any) -> Any:
        return scrubbed(value, secrets) if isinstance(value, str) else value

    for link in chain(error):
        link.args = tuple(clean(value) for value in link.args)
        for name, value in list(getattr(link, "__dict__", {}).items()):
            if isinstance(value, str):
                setattr(link, name, clean(value))
            elif name == "__notes__":
                value[:] = map(clean, value)
