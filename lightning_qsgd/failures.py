"""Find where an error comes from, what it means, and what to do about it. Level 0."""

import builtins
import linecache
import os
import platform
import re
import site
import sysconfig
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

_PACKAGE = str(Path(__file__).parent) + os.sep
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = tuple(os.path.join(path, "") for path in (*_PATHS, site.getusersitepackages()) if path)
_IN_TEXT = re.compile(r'^ *File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_BEGINS = "Traceback (most recent call last):"
#: Errors that Python, torch and others raise for faulty code.
_WRONG_CODE = (TypeError, AttributeError, LookupError, AssertionError, NameError, ArithmeticError, RuntimeError)
#: Files that call Lightning. An error that passed through no other file of the package is not the package's.
_ENTRIES = ("cli.py", "lightning_cli.py", "value.py", "worker.py", "command.py", "replay.py")
#: Files of torch that watch the processes of a data loader.
_LOADER = ("torch/utils/data/dataloader.py", "torch/utils/data/_utils/signal_handling.py")
# Texts by which torch, its CPU allocator, the operating system and CUDA report that memory ran out. Some of these
# errors have no special type. tests/test_failures.py fails if a text changes.
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip


class Frame(NamedTuple):
    """A line of a traceback."""

    file: str
    line: int
    function: str

    @property
    def origin(self) -> Literal["user", "package", "library"]:
        """Who wrote the file."""
        if self.file.startswith(_PACKAGE):
            return "package"
        parts = Path(self.file).parts
        library = self.file.startswith(_LIBRARIES) or "site-packages" in parts or "dist-packages" in parts
        return "library" if library or not os.path.isfile(self.file) else "user"

    @property
    def place(self) -> str:
        """The text "file:line in function", with a relative path if the file is below the current folder."""
        path = os.path.relpath(self.file) if self.file.startswith(os.path.join(os.getcwd(), "")) else self.file
        return f"{path}:{self.line} in {self.function}"

    @property
    def raises(self) -> bool:
        """Whether the line is a ``raise``."""
        return linecache.getline(self.file, self.line).lstrip().startswith("raise")


class Origin(NamedTuple):
    """Where an error comes from.

    Attributes:
        kind: name of the error's class. If another process sent the error as text, the original's.
        message: text of the error, or of that original.
        raised: the line that raised it, or None.
        user: the innermost line of a user's file, or None.
        last: the innermost line of a user's file or of this package, or None.
        is_bug: whether it is an error in the code of this package, rather than a refusal.
    """

    kind: str
    message: str
    raised: Frame | None
    user: Frame | None
    last: Frame | None
    is_bug: bool


def origin_of(error: BaseException) -> Origin:
    """Find where an error comes from. If it holds a traceback of another process as text, that traceback counts.

    Errors that the package, or a library it calls, raises by a ``raise`` statement are refusals. So are errors about a
    missing file, a missing module or a lack of memory. Other errors of faulty code belong to the file of the innermost
    line outside libraries: to the user, or, as a bug, to the package.
    """
    return _read(first_cause(error))


def first_cause(error: BaseException) -> BaseException:
    """Find the error of a class or file behind an error of the parser; its innermost one if it alone refused a value.

    Where a type has alternatives, the parser raises from the last one's error. It keeps the others in a list.
    """
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if not _raised_by_parser(each):
            return each
        frames = traceback.walk_tb(each.__traceback__)
        lists = [value for frame, _ in frames for value in frame.f_locals.values() if isinstance(value, list)]
        behind = [each.__cause__, *(kept for values in lists for kept in values)]
        waiting += [kept for kept in behind if isinstance(kept, BaseException)]
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _raised_by_parser(error: BaseException) -> bool:
    entries = traceback.extract_tb(error.__traceback__)
    return bool(entries) and Path(entries[-1].filename).parent.name == "jsonargparse"


def _read(error: BaseException) -> Origin:
    text = str(error)
    kind, message = type(error).__name__, text
    if _BEGINS in text:
        text = text.rpartition(_BEGINS)[2]
        frames = [Frame(file, int(line), function) for file, line, function in _IN_TEXT.findall(text)]
        kind, _, message = _last_error(text).partition(": ")
        kind = kind.rpartition(".")[2]
    else:
        entries = traceback.extract_tb(error.__traceback__)
        frames = [Frame(entry.filename, entry.lineno or 0, entry.name) for entry in entries]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append(Frame(error.filename, error.lineno or 0, "its text"))
        message = error.msg
    own = [frame for frame in frames if frame.origin != "library"]
    users = [frame for frame in own if frame.origin == "user"]
    last = own[-1] if own else None
    type_ = getattr(builtins, kind, type(error))
    wrong = isinstance(type_, type) and issubclass(type_, _WRONG_CODE)
    named = bool(frames) and frames[-1].raises and kind != "AssertionError"
    bug = last is not None and last.origin == "package" and wrong and not named
    if kind == "RuntimeError" and last is not None and frames[-1] != last:  # devices and networks raise it, too
        bug = bug and Path(last.file).name not in _ENTRIES and "distributed" not in Path(frames[-1].file).parts
    return Origin(kind, message, frames[-1] if frames else None, users[-1] if users else None, last, bug)


def _last_error(text: str) -> str:
    """Type and text of the error at the end of a traceback: all that follows the last indented line."""
    lines = text.rstrip().splitlines()
    start = max((i for i, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return " ".join(" ".join(lines[start + 1 :]).split())


def explain(error: BaseException) -> str:
    """Describe an error that ended a run in one line of at most 1000 characters, with a way out if one is known.

    If a file of the user is involved, the line begins with file, line and function.
    """
    origin, text = origin_of(error), str(error)
    message = " ".join(origin.message.split())
    if _of_dead_worker(origin):
        return (
            f"A process that loads data died: {message.split('. ')[0].rstrip('.')}. It may have run out of memory "
            "(each of num_workers needs its own) or of shared memory (/dev/shm; in a container raise --shm-size), or "
            "the data set may have ended it. Lower --data.num_workers; with 0, errors of the data set are shown in full"
        )
    if isinstance(error, MisconfigurationException) and isinstance(error.__cause__, TypeError):
        return (
            f"Lightning cannot rebuild the loaders of predict: {error.__cause__}. Pass arguments by name: write "
            "DataLoader(dataset, batch_size=...) in your predict_dataloader"
        )
    if _of_other_weights(origin):
        message = f"The checkpoint belongs to another model: {message}"
    loads = any(entry.filename.endswith(_LOADER) for entry in traceback.extract_tb(error.__traceback__))
    in_worker = loads and _BEGINS in text
    if origin.is_bug or in_worker or (origin.last is not None and origin.last == origin.user):
        message = f"{origin.kind}: {message}" if message else origin.kind
    if origin.user is not None:
        message = f"{origin.user.place}: {message}"
    if in_worker:
        message = f"Loading data failed ({text.partition(chr(10))[0].rstrip('.')}): {message}"
    return (message or origin.kind)[:1000]


def is_of_other_weights(error: BaseException) -> bool:
    """Whether an error means that a model's weights do not fit those of a checkpoint."""
    return _of_other_weights(origin_of(error))


def _of_other_weights(origin: Origin) -> bool:
    return origin.kind == "RuntimeError" and origin.raised is not None and origin.raised.function == "load_state_dict"


def _of_dead_worker(origin: Origin) -> bool:
    return origin.kind == "RuntimeError" and origin.raised is not None and origin.raised.file.endswith(_LOADER)


def to_report(error: BaseException, command: str) -> str | None:
    """What to report about a bug in the package; None for refusals and for errors in a file of the user.

    Args:
        error: the error that ended the command.
        command: the command as typed, without secrets.
    """
    origin = origin_of(error)
    if not origin.is_bug or origin.last is None or _of_dead_worker(origin):
        return None
    versions = (
        f"lightning_qsgd {version('lightning-qsgd')}, torch {version('torch')}, Python {platform.python_version()}"
    )
    return (
        f"unexpected, in {origin.last.place}. This is likely a bug in lightning_qsgd: please report this line, "
        f"the traceback that --debug shows, and: {versions}; {command}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a GPU or of this machine ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in _OUT_OF_MEMORY)


def memory_advice(error: BaseException, config: Mapping[str, Any], training: bool) -> str:
    """List the settings that save memory, with their current values, in one line.

    Args:
        error: the error, which names the memory that ran out.
        config: the whole configuration of the command, as plain values.
        training: whether the command trains, rather than only evaluates.
    """
    said = " ".join(str(error).split())
    for words in _OUT_OF_MEMORY:  # torch puts a place in its sources before this text, and advice after it
        if (start := said.find(words)) >= 0:
            said = said[start:].split(". If reserved")[0]
            break
    trainer, data, model = (config.get(name) or {} for name in ("trainer", "data", "model"))
    data, model = data.get("init_args") or {}, model.get("init_args") or {}
    optimizer = (model.get("optimizer") or {}).get("init_args") or {}
    attention = model.get("attention")
    kernel = (attention.get("init_args") or {}).get("kernel") if isinstance(attention, Mapping) else None
    ways = []
    if "batch_size" in data:
        window = f" with more trainer.accumulate_grad_batches (now {trainer.get('accumulate_grad_batches', 1)})"
        ways.append(f"a smaller batch_size (now {data['batch_size']}){window if training else ''}")
    if training and model.get("checkpoint_activations") is False:
        ways.append("model.checkpoint_activations true (now false)")
    if training and model.get("gradient_checkpointing") is False:
        ways.append("model.gradient_checkpointing true (now false)")
    if str(trainer.get("precision")) in ("32-true", "32", "64-true", "64", "None"):
        ways.append(f"trainer.precision bf16-mixed or bf16-true (now {trainer.get('precision')})")
    if kernel in ("plain", "compiled"):
        ways.append(f"model.attention.kernel fused (now {kernel})")
    if training and optimizer.get("scope") == "all":
        ways.append("model.optimizer.init_args.scope first_of_tensor (now all)")
    ways.append("a smaller model")
    return f"Out of memory ({said or type(error).__name__}). To save memory: {'; '.join(ways)}"
