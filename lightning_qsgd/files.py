"""Atomic writing, files that come with the package, and names that resemble each other. Below all levels."""

import difflib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

_INTACT = "an earlier file there is intact"


@contextmanager
def atomic_write(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Write a file atomically: into a temporary file, which replaces ``path`` if the block succeeds.

    Args:
        path: the target. Its folder is made if it is missing.
        mode: "w" (text, UTF-8) or "wb".

    Raises:
        OSError: if the file cannot be written, for example on a full disk. ``path`` is then unchanged.
    """
    path = Path(path)
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, f"Could not write {path}: {error.strerror or error}; {_INTACT}") from error
    try:
        with open(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.filename not in (None, temporary):  # of another file, in the caller's block
            raise
        raise OSError(error.errno, f"Could not write {path}: {error.strerror or error}; {_INTACT}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` as JSON, atomically; see :func:`atomic_write`."""
    with atomic_write(path) as file:
        json.dump(values, file, indent=2)


def check_writable(path: str | Path) -> None:
    """Make the folder of ``path`` and check that a file can be written there.

    Raises:
        OSError: if it cannot, or if ``path`` is a folder.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, f"Cannot write {path}: {error.strerror or error}") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder atomically: into a temporary folder, which replaces ``path`` if the block succeeds.

    Args:
        path: the target. An existing folder is replaced.

    Raises:
        OSError: if a file cannot be written, for example on a full disk. ``path`` is then unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OSError(error.errno, f"Could not write {path}: {error.strerror or error}; {_INTACT}") from error
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            temporary.chmod(0o777 & ~_umask())  # mkdtemp makes folders private
            if path.exists():
                path.rename(old)
            temporary.rename(path)
        except Exception as error:  # safetensors has an error of its own for a full disk
            if old.exists():
                old.rename(path)
            number = error.errno if isinstance(error, OSError) else None
            reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
            raise OSError(number or errno.EIO, f"Could not write {path}: {reason}; {_INTACT}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def close(name: str, names: Iterable[str], cutoff: float = 0.7, otherwise: Iterable[str] = ()) -> str:
    """The names that resemble a misspelled one, as a part of an error: "; close: lr, betas".

    Args:
        name: the misspelled name.
        names: those that exist.
        cutoff: least similarity, 0 to 1. Default: 0.7.
        otherwise: names to show if none is similar. Default: none, and the text is empty.
    """
    found = difflib.get_close_matches(name, list(names), cutoff=cutoff) or list(otherwise)
    return f"; close: {', '.join(found)}" if found else ""


def shipped(path: str | Path) -> Path | None:
    """The path of a file or folder that comes with the package, such as "configs"; None if it does not exist."""
    package = Path(__file__).parent
    places = (package / path, package.parent / path)  # in a wheel; in a checkout
    return next((place for place in places if place.exists()), None)


def find_config(path: str | Path, comparison: bool = False) -> str:
    """Find a configuration file by its path or its short name.

    Args:
        path: the path of a file, a path that starts with ``configs/``, or a name below that folder, such as "seqcls" or
            "overlay/adamw". The last two may omit ".yaml". They are looked up in the current folder, then among the
            files shipped with the package. A text in YAML, such as "a: 1", is returned unchanged.
        comparison: whether the error lists comparisons instead of all other configurations. Default: False.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    if re.search(r"[:{\n]", str(path)) or (Path(path).exists() and not Path(path).is_dir()):
        return str(path)
    name = re.fullmatch(r"(?:configs/)?([\w-]+(?:/[\w-]+)*)(?:\.yaml)?", str(path))
    file = Path("configs", f"{name[1]}.yaml") if name else Path(path)
    if file.is_file():
        return str(file)
    if name and (found := shipped(file)):
        return str(found)
    folder = shipped("configs")
    names = sorted(str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.yaml")) if folder else []
    names = [n for n in names if n.startswith("compare/") == comparison]
    asked = name[1] if name else Path(path).stem
    near = difflib.get_close_matches(asked, names, cutoff=0.5) or [n for n in names if comparison or "/" not in n]
    missing = "there is no such file" if file == Path(path) else f"there is neither this file nor {file}"
    raise FileNotFoundError(f"No configuration {str(path)!r}: {missing}. Shipped: {', '.join(near)}")
