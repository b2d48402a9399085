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
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, get_args, get_origin

_INTACT = "an earlier file there is intact"
T = TypeVar("T")
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}


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


def structured(values: Any, kind: type[T], none: float | None = None) -> T:
    """Make a dataclass of plain values, such as those of a JSON file.

    Values are checked and never converted: "3" is no number, and 1.5 no whole number. A field that is None takes its
    default, if it has one.

    Args:
        values: by the names of the fields.
        kind: the dataclass.
        none: what None stands for where a number is needed. Default: None is refused there.

    Raises:
        ValueError: for an unknown or missing field, and for a value of another type; it names all of them, each with
            its place, such as "runs[3].seed".
    """
    import cattrs
    from cattrs.gen import make_dict_structure_fn

    def number(value: Any, _: Any) -> float:
        return plain(none if value is None else value, float)

    def plain(value: Any, expected: type) -> Any:
        allowed = (int, float) if expected is float else expected
        if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
            raise TypeError(f"{value!r} is not {WORDS[expected]}")
        return value

    def dataclass(cls: type, converter: Any) -> Any:
        optional = {f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING}
        make = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)

        def structure(given: Any, _: Any) -> Any:
            plain(given, dict)
            return make({k: v for k, v in given.items() if v is not None or k not in optional}, cls)

        return structure

    def with_whole_keys(cls: Any, converter: Any) -> Any:
        inner = get_args(cls)[1]
        return lambda given, _: {int(key): converter.structure(value, inner) for key, value in given.items()}

    def one_of(cls: Any) -> Any:
        def structure(value: Any, _: Any) -> Any:
            if value not in get_args(cls):
                raise TypeError(f"{value!r} is none of {', '.join(map(repr, get_args(cls)))}")
            return value

        return structure

    converter = cattrs.Converter()
    for simple in (str, int, bool):
        converter.register_structure_hook(simple, plain)
    converter.register_structure_hook(float, number)
    converter.register_structure_hook_factory(is_dataclass, dataclass)
    converter.register_structure_hook_factory(lambda cls: get_origin(cls) is Literal, one_of)
    converter.register_structure_hook_factory(
        lambda cls: get_origin(cls) is dict and get_args(cls)[0] is int, with_whole_keys
    )
    try:
        return converter.structure(values, kind)
    except (cattrs.BaseValidationError, TypeError) as error:
        found = [f"{error} @ "] if isinstance(error, TypeError) else cattrs.transform_error(error, "", _told)
        told = (one.rpartition(" @ ") for one in found)
        raise ValueError("; ".join(f"{place}: {what}".lstrip(".: ") for what, _, place in told)) from error


def _told(error: BaseException, kind: type | None) -> str:
    from cattrs.errors import ForbiddenExtraKeysError

    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown: {', '.join(sorted(map(repr, error.extra_fields)))}"
    return "missing" if isinstance(error, KeyError) else str(error)


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
