"""What a configuration must not be able to call: each leaves a mark."""

import os
from pathlib import Path

import lightning as L


def spring(*args, **kwargs):
    """Make the file that $MARK names."""
    Path(os.environ["MARK"]).touch()


class Trap:
    """Springs when it is made."""

    def __init__(self, *args, **kwargs):
        spring()


def trap(*args, **kwargs):
    """Springs when it is called."""
    spring()


class Hostile:
    """Springs when a pickle of it is loaded."""

    def __reduce__(self):
        return spring, ()


def schedule(step: int) -> float:
    """A harmless schedule."""
    return 0.5


class Indiscreet(L.Callback):
    """Fails with a secret in its message, in that of the error before it, and in a note."""

    def on_train_batch_start(self, *args):
        secret = os.environ["HF_TOKEN"]
        try:
            raise KeyError(f"no {secret}")
        except KeyError as error:
            failure = RuntimeError(f"refused for {secret}")
            failure.add_note(f"sent {secret}")
            raise failure from error
