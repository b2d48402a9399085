"""A parser of arguments and YAML whose errors are one line. Level 1."""

import argparse
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from jsonargparse._util import config_load_stack  # the files that are being read; no public name says so
from lightning.pytorch.cli import LightningArgumentParser

from lightning_qsgd import manual
from lightning_qsgd.scrubbing import chain, scrubbed
from lightning_qsgd.tracebacks import origin_of
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


class OneLineErrorParser(LightningArgumentParser):
    """A parser whose errors are one line: the key, the value, what was expected. It takes no abbreviations.

    Attributes:
        may_be_empty: settings whose entries in files may be empty, such as the arms of a comparison. Default: none.
        exits: whether an error ends the process with 2, as on a command line, or is a ValueError. Default: True.
    """

    may_be_empty: tuple[str, ...] = ()

    def __init__(self, *args: Any, exits: bool = True, **kwargs: Any) -> None:
        own = {"prog": "lightning-qsgd", "allow_abbrev": False, "parser_mode": "checked_yaml"}
        super().__init__(*args, **(own | kwargs))
        self.exits = exits

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """As jsonargparse's, which does not say which file it cannot decode."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error}; save it as UTF-8") from error

    def parse_string(self, content: str, path: Any = "", *args: Any, **kwargs: Any) -> Namespace:
        """As jsonargparse's; an empty file, and a group of settings without any, set nothing."""
        if path:
            groups = {name.removeprefix("--").split(".")[0] for name in self._option_string_actions if "." in name}
            content = without_empty(content, _file(path), groups, self.may_be_empty)
        return super().parse_string(content, path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with 2; with ``--debug`` the parser's whole explanation comes first."""
        if not self.exit_on_error:  # an inner parser, whose message becomes part of the outer one's
            super().error(message, ex)
        _fail(message, self, ex, self.exits)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, without the lists of all classes that happen to be imported."""
        return re.sub(r",\s+known\s+subclasses:[^()]*\)", ")", super().format_help(*args, **kwargs))


class KnownArgumentsParser(argparse.ArgumentParser):
    """A parser that leaves what it does not know to another one, with the same errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        _fail(message, self)


def _fail(
    message: str, parser: argparse.ArgumentParser, ex: BaseException | None = None, exits: bool = True
) -> NoReturn:
    """Exit with 2 and one line, or raise a ValueError: the error and the way out."""
    if "--debug" in sys.argv:
        sys.stderr.write(f"{scrubbed(message)}\n")
    command = parser.prog.partition(" ")[2] or "fit"
    line, way_out = shorten(message), f"; all settings: lightning-qsgd {command} --help all"
    if missing := re.search(r"arguments are required: (.*)", line):
        names = missing[1].split(", ")
        example = re.search(r"^  (lightning-qsgd .*)$", manual.page(command) or "", re.MULTILINE)
        line, way_out = f"Missing: {', '.join(names)}", f"; for example: {example[1]}" if example else ""
    elif unknown := re.search(r"^unrecognized arguments: --([\w.]+)", line):
        line += _close(unknown[1], _names(parser))
    elif unknown := re.search(r"^Group '(.*)' does not accept option '(.*)'", line):
        name = f"{unknown[1]}.{unknown[2]}"
        line = f"No option '{name}'{_close(name, _names(parser))}"
    elif said := _of_a_users_file(ex):
        line, way_out = said, ""
    elif _of_a_class(message):
        way_out = ""
    line = scrubbed(line + way_out)
    if not exits:
        raise ValueError(line)
    sys.stderr.write(f"error: {line}\n")
    sys.exit(2)


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


def shorten(message: str) -> str:
    """One line of a jsonargparse message: the keys that lead to the value, the innermost reasons, the value."""
    if line := _of_a_class(message):
        return line
    keys, innermost = _innermost(message)
    noise = (
        'Does not validate|Subtypes|Errors:|Expected a <class \'NoneType\'>|Given value|Problem with given|"[^"]*":$'
    )
    reasons = []
    for line in innermost.splitlines():
        line = re.sub(r'^[ -]*("[^"]*": *)?|^.*callable class: |\.? Got value: Namespace\(.*', "", line).strip(" -")
        if line and not re.match(noise, line) and line not in reasons:
            reasons.append(line)
    reason = "; or ".join(reasons) or message
    given = re.search(r"Given value: (?!NestedArg|Namespace)(.*?)(\. Got value: .*)?$", message, re.MULTILINE)
    if given and given[1] not in reason:
        reason += f". Got value: {given[1]}"
    return " ".join(f"{keys}: {reason}".split()) if keys else " ".join(reason.split())


def _innermost(message: str) -> tuple[str, str]:
    """The keys that lead to the value, and the part of the message about it."""
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    return keys, message.rpartition("Parser key")[2] if keys else message


def _of_a_class(message: str) -> str | None:
    """What to say of an option that a class does not have, or of a class that a module does not have."""
    key, innermost = _innermost(message)
    if missing := re.search(r"module '([^']+)' has no attribute '([^']+)'", innermost):
        module, name = missing.groups()
        names = [n for n, value in vars(sys.modules[module]).items() if callable(value)]
        return f"{key}: no class {name} in {module}{_close(name, names)}"
    option = re.search(r"Option '([^']+)' is not accepted", innermost)
    of = re.search(r"class_path[= ]'([^']+)'", innermost)  # before or after it
    if not (key and option and of):
        return None
    names = [name.removeprefix(f"{key}.") for name in _names(class_options(of[1], key))]
    if not names:
        return f"{key}: {of[1]} has no options; name another class, or add --config FILE"
    return f"{key}: no option {option[1]!r}{_close(option[1], names)}; its options: --{key}.help {of[1]}"


def _names(parser: argparse.ArgumentParser) -> list[str]:
    names = [name.lstrip("-") for name in parser._option_string_actions if name.startswith("--")]
    return [name for name in names if not name.endswith(("+", ".help"))]


def _close(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), cutoff=0.7)
    return f"; close: {', '.join(close)}" if close else ""
