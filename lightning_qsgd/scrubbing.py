"""Remove secrets from texts and errors. Below all levels: imports nothing of this package."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

_NAMES = re.compile(r"(?i)(token|secret|passw|credential|(^|_)(key|pat|auth|pwd)$)|apikey$")


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that led to it, also behind ``raise ... from None``, by which clients hide responses."""
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
    """Replace secrets by ``***``: the given ones, the environment's, and what follows "Bearer" or "apikey"."""
    for secret in sorted({*secrets, *secrets_of_environment()}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"(?i)\b(bearer|apikey)([ =:]+)[^\s&'\"]+", r"\1\2***", text)


def without_secrets(arguments: Iterable[str]) -> list[str]:
    """Replace secrets in the arguments of a command, and values of options that are named like secrets, by ``***``."""
    found: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = _NAMES.search((name if equals else option).lstrip("-").rpartition(".")[2])
        is_option = argument.startswith("-") and not equals
        kept = argument if is_option or not secret else f"{name}=***" if equals else "***"
        found.append(scrubbed(kept))
        option = argument if is_option else ""
    return found


def scrub(error: BaseException, secrets: Iterable[str] = ()) -> None:
    """Replace secrets in an error and in all errors that led to it, in place; see :func:`scrubbed`."""
    secrets = list(secrets)

    def clean(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = scrubbed(value, secrets)
        return value if text == value else type(value)(text)  # torch's errors of workers hold a subclass of str

    for link in chain(error):
        link.args = tuple(clean(value) for value in link.args)
        for name, value in list(getattr(link, "__dict__", {}).items()):
            if isinstance(value, str):
                setattr(link, name, clean(value))
            elif name == "__notes__":
                value[:] = map(clean, value)
