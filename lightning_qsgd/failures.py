"""What a failure means and what to do about it, in one line. Level 2."""

import re

from torch.multiprocessing.spawn import ProcessRaisedException

from lightning_qsgd.parser import shorten

_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)")
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process (\d+)\.\nOriginal Traceback")


def explain(error: BaseException) -> str:
    """One line for an error that ended a run, at most 1000 letters; its cause and ways out where they are known.

    Known are processes of a data loader that died, errors in them, and checkpoints of another model; other errors speak
    for themselves.
    """
    text = str(error)
    if isinstance(error, ProcessRaisedException):  # its text is the traceback of a process that was spawned
        text = _last_error(text).partition(": ")[2]
    if dead := _DEAD_WORKER.search(text):
        how = " ".join(text[dead.start() :].split(". ")[0].split()).rstrip(".")
        return (
            f"A process that loads data died: {how}. Its memory may have run out (each of num_workers has its own), or "
            "its shared memory (/dev/shm; in a container raise --shm-size), or the data set ended it. Use fewer "
            "--data.num_workers; with 0 an error in the data set is shown as it is"
        )
    if caught := _IN_WORKER.search(text):
        reason = _last_error(text) or caught[1]
        return f"Loading data failed in process {caught[2]}: {reason}"[:1000]
    message = shorten(text) if "Does not validate" in text else " ".join(text.split())
    if "loading state_dict" in message and not message.startswith("Invalid"):
        message = f"The checkpoint belongs to another model: {message}"
    return (message or type(error).__name__)[:1000]


def _last_error(text: str) -> str:
    """Type and text of the error at the end of a traceback: what follows the last indented line."""
    lines = text.rstrip().splitlines()
    start = max((i for i, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return " ".join(" ".join(lines[start + 1 :]).split())
