"""Secrets cut out of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lightning_qsgd.quantum.retries import chain


def scrub(error: BaseException, secrets: Iterable[str]) -> None:
    """Replace secrets, and whatever follows "Bearer" or "apikey", in an error and all that led to it, in place."""
    secrets = list(secrets)

    def clean(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for secret in secrets:
            value = value.replace(secret, "***")
        return re.sub(r"(?i)\b(bearer|apikey)([ =:]+)[^\s&'\"]+", r"\1\2***", value)

    for link in chain(error):
        link.args = tuple(clean(value) for value in link.args)
        for name, value in list(getattr(link, "__dict__", {}).items()):
            if isinstance(value, str):
                setattr(link, name, clean(value))
