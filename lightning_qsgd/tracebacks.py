"""Where an error comes from: a user's file, this package, or a library. Below all levels: imports nothing of it."""

import builtins
import linecache
import os
import re
import site
import sysconfig
import traceback
from pathlib import Path
from typing import Literal, NamedTuple

_PACKAGE = str(Path(__file__).parent) + os.sep
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = tuple(os.path.join(path, "") for path in (*_PATHS, site.getusersitepackages()) if path)
_IN_TEXT = re.compile(r'^ *File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_BEGINS = "Traceback (most recent call last):"
#: What Python, torch and others raise by themselves where code is wrong.
_WRONG_CODE = (TypeError, AttributeError, LookupError, AssertionError, NameError, ArithmeticError, RuntimeError)


#: Files that hand over to Lightning: an error that passed no other line of the package is not of its making.
_ENTRIES = ("cli.py", "lightning_cli.py", "value.py", "worker.py", "command.py", "replay.py")


class Frame(NamedTuple):
    """A line that was running."""

    file: str
    line: int
    function: str

    @property
    def origin(self) -> Literal["user", "package", "library"]:
        """Whose it is."""
        if self.file.startswith(_PACKAGE):
            return "package"
        parts = Path(self.file).parts
        library = self.file.startswith(_LIBRARIES) or "site-packages" in parts or "dist-packages" in parts
        return "library" if library or not os.path.isfile(self.file) else "user"

    @property
    def place(self) -> str:
        """As "file:line in function", from the current folder where the file is below it."""
        path = os.path.relpath(self.file) if self.file.startswith(os.path.join(os.getcwd(), "")) else self.file
        return f"{path}:{self.line} in {self.function}"

    @property
    def raises(self) -> bool:
        """Whether the line is a ``raise``."""
        return linecache.getline(self.file, self.line).lstrip().startswith("raise")


class Origin(NamedTuple):
    """Where an error comes from.

    Attributes:
        kind: name of its class; of the original's, if another process sent it as text.
        message: likewise.
        user: the innermost line of a user's file, or None.
        last: the innermost line of a user's file or of this package, or None.
        is_bug: whether it is an error in the code of this package, rather than a refusal.
    """

    kind: str
    message: str
    user: Frame | None
    last: Frame | None
    is_bug: bool


def origin_of(error: BaseException) -> Origin:
    """Where an error comes from; of errors that carry a traceback of another process as text, there.

    A refusal is what the package, or a library that it called, raises by a ``raise``, and whatever says that a file, a
    module or memory is missing. Errors of wrong code that nobody raises by name are the user's where a line of theirs
    is the innermost one that is no library's, and bugs where one of the package is.
    """
    found = _read(error)
    inner = error
    while inner.__cause__ is not None and _raised_by_parser(inner):  # what a class that it made has raised
        inner = inner.__cause__
    made = _read(inner) if inner is not error else found
    return made if made.user is not None or made.is_bug else found


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
    if kind == "RuntimeError" and last is not None and frames[-1] != last:  # also of devices, networks and processes
        bug = bug and Path(last.file).name not in _ENTRIES and "distributed" not in Path(frames[-1].file).parts
    return Origin(kind, message, users[-1] if users else None, last, bug)


def _last_error(text: str) -> str:
    """Type and text of the error at the end of a traceback: what follows the last indented line."""
    lines = text.rstrip().splitlines()
    start = max((i for i, line in enumerate(lines) if line.startswith("  ")), default=-1)
    return " ".join(" ".join(lines[start + 1 :]).split())
