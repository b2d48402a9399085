"""What a failure means and what to do about it, in one line. Level 2."""

import platform
import re
from importlib.metadata import version

from lightning_qsgd.parser import shorten
from lightning_qsgd.tracebacks import Origin, origin_of

_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)")
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process (\d+)\.\nOriginal Traceback")

_MADE_ANEW = re.compile(r"The DataLoader implementation has an error where more than one `__init__`.*?`(\w+)=\.\.\.`")


def explain(error: BaseException) -> str:
    """One line for an error that ended a run, at most 1000 letters; its cause and ways out where they are known.

    Errors in a user's file, and refusals of what it does, begin with file, line and function. Known are processes of a
    data loader that died, errors in them, and checkpoints of another model; others speak for themselves.
    """
    origin, text = origin_of(error), str(error)
    if dead := _DEAD_WORKER.search(text):
        how = " ".join(text[dead.start() :].split(". ")[0].split()).rstrip(".")
        return (
            f"A process that loads data died: {how}. Its memory may have run out (each of num_workers has its own), or "
            "its shared memory (/dev/shm; in a container raise --shm-size), or the data set ended it. Use fewer "
            "--data.num_workers; with 0 an error in the data set is shown as it is"
        )
    if (again := _MADE_ANEW.search(text)) and again[1] in ("batch_size", "shuffle", "sampler", "batch_sampler"):
        return (
            f"Lightning makes the loaders of predict anew, and cannot where {again[1]} has no name: write "
            f"DataLoader(dataset, {again[1]}=...) in your predict_dataloader"
        )
    message = origin.message
    message = shorten(message) if "Does not validate" in message else " ".join(message.split())
    if "loading state_dict" in message and not message.startswith("Invalid"):
        message = f"The checkpoint belongs to another model: {message}"
    caught = _IN_WORKER.search(text)
    if origin.is_bug or caught or (origin.last is not None and origin.last == origin.user):
        message = f"{origin.kind}: {message}" if message else origin.kind
    if origin.user is not None:
        message = f"{origin.user.place}: {message}"
    if caught:
        message = f"Loading data failed in process {caught[1]}: {message}"
    return (message or origin.kind)[:1000]


def to_report(error: BaseException, command: str) -> str | None:
    """What to report of an error in the package itself; None for refusals and for errors in a user's file.

    Args:
        error: that ended the command.
        command: as it was typed, without secrets.
    """
    origin: Origin = origin_of(error)
    if not origin.is_bug or origin.last is None or _DEAD_WORKER.search(str(error)):
        return None
    versions = (
        f"lightning_qsgd {version('lightning-qsgd')}, torch {version('torch')}, Python {platform.python_version()}"
    )
    return (
        f"unexpected, in {origin.last.place}. This is likely a mistake in lightning_qsgd: please report this line, "
        f"the traceback that --debug shows, and: {versions}; {command}"
    )
