"""A parser of arguments and YAML whose errors are one line. Level 1."""

import argparse
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from jsonargparse._util import config_load_stack  # the files that are being read; no public name says so
from lightning.pytorch.cli import LightningArgumentParser

from lightning_qsgd import manual
from lightning_qsgd.failures import first_cause, origin_of
from lightning_qsgd.files import close
from lightning_qsgd.scrubbing import chain, scrubbed
from lightning_qsgd.yaml_files import check_yaml, dump_yaml, without_empty, without_null


def _load(text: str, path: str = "") -> Any:
    """The parser's own reading of YAML, for files that :func:`check_yaml` accepts."""
    if not path and ":" not in text:
        return get_loader("yaml")(text)
    files = config_load_stack.get()
    if not path and not (files and Path(files[-1][0]).read_text() == text):  # of one setting, perhaps no YAML at all
        try:
            check_yaml(text, "YAML")
        except ValueError as error:
            raise yaml.YAMLError(str(error)) from error
        return get_loader("yaml")(text)
    check_yaml(text, _file(path))
    return without_null(get_loader("yaml")(f"{text}\n#"))  # without the comment it takes a lone "key:" for a word


def _file(path: str) -> str:
    """The file that is being read, as it was named."""
    files = config_load_stack.get()
    whole, as_named = files[-1] if files else (path, path)
    return as_named if len(files) < 2 else whole  # one that another file names


set_loader("checked_yaml", _load, (yaml.YAMLError,))
set_dumper("checked_yaml", dump_yaml)


class Refusal(NamedTuple):
    """Why a setting was refused.

    Attributes:
        keys: options that lead to the setting, outermost first.
        reason: in one line.
        owner: the class whose options are the way out; "": the reason says the way out; None: all settings.
    """

    keys: tuple[str, ...]
    reason: str
    owner: str | None


class _Refused(TypeError):
    """A refusal in this package's words, of a type that the parser catches."""

    def __init__(self, reason: str, owner: str | None = None) -> None:
        super().__init__(reason)
        self.owner = owner


#: Refusals by parsers of classes. Their errors refer to them by number, since outer parsers keep only their text.
_refusals: list[Refusal] = []
_REFERENCE = re.compile(r"<refusal (\d+)>")


class OneLineErrorParser(LightningArgumentParser):
    """A parser that reports each error in one line: the key, the value, and what was expected.

    It accepts no abbreviated options.

    Attributes:
        may_be_empty: settings whose entries in files may be empty, such as the arms of a comparison. Default: none.
        exits: whether an error ends the process with exit code 2, as on a command line. Otherwise the parser raises a
            ValueError. Default: True.
    """

    may_be_empty: tuple[str, ...] = ()

    def __init__(self, *args: Any, exits: bool = True, **kwargs: Any) -> None:
        own = {"prog": "lightning-qsgd", "allow_abbrev": False, "parser_mode": "checked_yaml"}
        super().__init__(*args, **(own | kwargs))
        self.exits = exits
        self._typed: list[str] = []
        self._class: Any = None  # of an inner parser: whose options it has

    def add_class_arguments(self, theclass: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a class; see jsonargparse."""
        self._class = theclass
        return super().add_class_arguments(theclass, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Namespace:
        """Parse a command line; see jsonargparse."""
        self._typed = list(sys.argv[1:] if args is None else args)
        return super().parse_args(args, *more, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file. The error names a file that cannot be decoded."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error}; save it as UTF-8") from error

    def parse_string(self, content: str, path: Any = "", *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a file. An empty file, or a group without settings, sets nothing."""
        if path:
            groups = {name.removeprefix("--").split(".")[0] for name in self._option_string_actions if "." in name}
            content = without_empty(content, _file(path), groups, self.may_be_empty)
        return super().parse_string(content, path, *args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write a configuration, which was validated when it was parsed, to a file; see jsonargparse."""
        super().save(*args, **{"skip_validation": True, **kwargs})

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Check a configuration.

        Raises:
            TypeError: if an option is unknown or missing, or a value is invalid.
        """
        try:
            super().validate(namespace, *args, **kwargs)
        except KeyError as error:
            names = _names(self)
            unknown = next((key for key, _ in namespace.items() if not _is_known(key, names)), str(error))
            owner = None if self.exit_on_error or self._class is None else _path(self._class)
            if owner and not names:
                raise _Refused(f"{owner} has no options; name another class, or add --config FILE", "") from error
            no = "no" if owner else "No"
            raise _Refused(f"{no} option {unknown!r}{close(unknown, names)}", owner) from error
        except TypeError as error:
            if _option_of(error) is not None:
                raise
            names = str(error).rpartition(": ")[2]
            raise _Refused(f"Missing: {names}{_example(self)}", "") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 and one line; with ``--debug`` the parser's whole explanation comes first.

        Raises:
            ValueError: instead, if not ``exits``.
        """
        refusal = self._refusal(message, ex)
        if not self.exit_on_error:  # of a class: the outer parser reports it
            _refusals.append(refusal)
            super().error(f"{message} <refusal {len(_refusals) - 1}>", ex)
        key = ".".join(refusal.keys)
        line = f"{key}: {refusal.reason}" if key else refusal.reason
        if said := _of_a_users_file(ex):
            line = said
        elif refusal.owner is None:
            line += f"; all settings: lightning-qsgd {_command(self)} --help all"
        elif refusal.owner:
            line += f"; its options: --{key}.help {refusal.owner}"
        _fail(message, line, self.exits)

    def _refusal(self, message: str, ex: Exception | None) -> Refusal:
        option = _option_of(ex)
        keys = () if option is None else (option.dest,)
        if numbers := _REFERENCE.findall(message):
            inner = _refusals[int(numbers[-1])]
            return inner._replace(keys=(*keys, *inner.keys))
        if ex is None:  # of the command line
            names = _names(self)
            typed = [word[2:].partition("=")[0].removesuffix("+") for word in self._typed if word.startswith("--")]
            unknown = next((name for name in typed if not _is_known(name, names)), "")
            return Refusal(keys, message + close(unknown, names), None)
        return Refusal(keys, *_reason(first_cause(ex), option))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, without the lists of all classes that happen to be imported."""
        return re.sub(r",\s+known\s+subclasses:[^()]*\)", ")", super().format_help(*args, **kwargs))


class KnownArgumentsParser(argparse.ArgumentParser):
    """A parser that reports errors in one line and leaves unknown arguments to another parser.

    It has the option ``--config``, which is required.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.add_argument("-c", "--config", action="append", help="YAML file; later ones override earlier ones")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse the arguments that this parser knows; see argparse."""
        options, rest = super().parse_known_args(*args, **kwargs)
        if not options.config:
            line = f"Missing: -c/--config{_example(self)}"
            _fail(line, line)
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        _fail(message, f"{message}; all settings: lightning-qsgd {_command(self)} --help all")


def _fail(explanation: str, line: str, exits: bool = True) -> NoReturn:
    """Exit with code 2 and one line, or raise a ValueError."""
    if "--debug" in sys.argv:
        sys.stderr.write(f"{scrubbed(explanation)}\n")
    line = scrubbed(" ".join(line.split()))
    if not exits:
        raise ValueError(line)
    sys.stderr.write(f"error: {line}\n")
    sys.exit(2)


def _command(parser: argparse.ArgumentParser) -> str:
    return parser.prog.partition(" ")[2] or "fit"


def _example(parser: argparse.ArgumentParser) -> str:
    """The first example of a command, for errors."""
    lines = (manual.page(_command(parser)) or "").splitlines()
    return next((f"; for example:{line[1:]}" for line in lines if line.startswith("  lightning-qsgd ")), "")


def _option_of(error: BaseException | None) -> argparse.Action | None:
    """The option whose value was being read when an error was raised; None if there is none."""
    frames = traceback.walk_tb(error.__traceback__ if error is not None else None)
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    return next((owner for owner in reversed(owners) if isinstance(owner, argparse.Action)), None)


def _reason(cause: BaseException, option: argparse.Action | None) -> tuple[str, str | None]:
    """Reason and owner of a :class:`Refusal`, from the error that started it."""
    if isinstance(cause, _Refused):
        return str(cause), cause.owner
    if isinstance(cause, AttributeError) and isinstance(module := cause.obj, ModuleType):
        names = [name for name, value in vars(module).items() if callable(value)]
        return f"no class {cause.name} in {module.__name__}{close(str(cause.name), names)}", ""
    hint = getattr(option, "_typehint", None)  # no public name gives an option's type
    if option is not None and hint is None and isinstance(cause, TypeError):
        return f"it is a group of settings and takes no value; use --{option.dest}.NAME VALUE", None
    alternatives = f"; its type: {_told(hint)}" if isinstance(cause, ValueError) and _is_union(hint) else ""
    return f"{cause}{alternatives}", None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _told(hint: Any) -> str:
    """A type as it is written in code, without modules."""
    if _is_union(hint):
        return " | ".join(map(_told, get_args(hint)))
    if hint is NoneType:
        return "null"
    return hint.__name__ if isinstance(hint, type) else re.sub(r"\b[A-Za-z_]\w*\.", "", str(hint))


def _of_a_users_file(error: BaseException | None) -> str | None:
    """What to say of an error in a user's file that made the parser fail, as in a module that a class_path names."""
    for link in chain(error) if error is not None else ():
        origin = origin_of(link)
        if origin.user is not None and origin.last == origin.user:
            return f"{origin.user.place}: {origin.kind}: {' '.join(origin.message.split())}"
    return None


def class_options(class_path: str, key: str, given: Iterable[str] = ()) -> OneLineErrorParser:
    """A parser of the options of a class, for their names and help.

    Args:
        class_path: of the class.
        key: where it is in the configuration, such as "model.optimizer".
        given: names of arguments that a configuration gives; others without a default are not options but what the
            program gives, such as the parameters of an optimizer.
    """
    cls = pkgutil.resolve_name(class_path)
    parameters = inspect.signature(cls).parameters.values()
    needed: set[str | int] = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    parser = OneLineErrorParser(add_help=False)
    parser.add_class_arguments(cls, key, skip=needed - set(given), fail_untyped=False)
    return parser


def refuse_silent_functions(config: Any, key: str = "") -> None:
    """Refuse functions, named by path, that do not say what they return: ``os.system`` is no schedule.

    Where a function is legal (a schedule), one of a user's own says so: ``def schedule(step: int) -> float``. Classes
    have been checked by the parser, against the base class of each place.

    Args:
        config: a parsed configuration, or a part of it.
        key: its place, for the error.

    Raises:
        ValueError: if there is one; nothing is called.
    """
    if isinstance(config, Namespace | dict):
        for name, value in vars(config).items() if isinstance(config, Namespace) else config.items():
            refuse_silent_functions(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for value in config:
            refuse_silent_functions(value, key)
    elif callable(config) and not isinstance(config, type):
        function = config if hasattr(config, "__qualname__") else type(config).__call__
        if "return" not in getattr(function, "__annotations__", {}):
            name = f"{function.__module__}.{function.__qualname__}"
            raise ValueError(
                f"Invalid {key}: {name}; a function must say what it returns, such as def schedule(step: int) -> float"
            )


def refuse_class_names(value: Any, name: str) -> None:
    """Refuse a value out of a file where it names a class, which the parser would import and make.

    Args:
        value: of plain values.
        name: what it is, for the error.

    Raises:
        ValueError: if it is, or contains, a dotted name or a ``class_path``.
    """
    if names_class(value):
        raise ValueError(f"Invalid {name}: {value!r} names a class; only a configuration may do so: use another file")


def names_class(value: Any) -> bool:
    """Whether a plain value is, or contains, a dotted name or a ``class_path``."""
    if isinstance(value, str):
        return "." in value and all(part.isidentifier() for part in value.split("."))
    if isinstance(value, dict):
        return "class_path" in value or any(map(names_class, value.values()))
    return isinstance(value, list | tuple) and any(map(names_class, value))


def _names(parser: argparse.ArgumentParser) -> list[str]:
    names = [name.lstrip("-") for name in parser._option_string_actions if name.startswith("--")]
    return [name for name in names if name != "help" and not name.endswith(("+", ".help"))]


def _is_known(key: str, names: Iterable[str]) -> bool:
    """Whether a key is an option, a group of options, or a part of an option's value."""
    groups = {name.rpartition(".")[0] for name in names}
    parts = (f"{name}." for name in names if name not in groups)
    return key in names or any(name.startswith(f"{key}.") for name in names) or key.startswith(tuple(parts))


def _path(function: Any) -> str:
    """The shortest path by which a class or function can be imported."""
    parts = function.__module__.split(".")
    paths = (".".join(parts[: n + 1]) for n in range(len(parts)))
    module = next(path for path in paths if getattr(sys.modules.get(path), function.__name__, None) is function)
    return f"{module}.{function.__qualname__}"
