"""A parser of arguments and YAML whose errors are one line. Level 1."""

import re
import sys
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_qsgd.scrubbing import scrubbed


class OneLineErrorParser(LightningArgumentParser):
    """A parser whose errors are one line: the key, the value, what was expected."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with 2; with ``--debug`` the parser's whole explanation comes first."""
        if not self.exit_on_error:  # an inner parser, whose message becomes part of the outer one's
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        if "--debug" in sys.argv:
            sys.stderr.write(f"{scrubbed(message)}\n")
        sys.stderr.write(
            f"error: {scrubbed(shorten(message))}; all settings: {parser.prog.replace(' [options]', '')} --help all\n"
        )
        sys.exit(2)


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
                f"Invalid {key.removeprefix('fit.')}: {name}; a function must say what it returns, such as "
                "def schedule(step: int) -> float"
            )


def refuse_class_names(value: Any, name: str) -> None:
    """Refuse a value out of a file where it names a class, which the parser would import and make.

    Args:
        value: of plain values.
        name: what it is, for the error.

    Raises:
        ValueError: if it is, or contains, a dotted name or a ``class_path``.
    """
    dotted = isinstance(value, str) and all(part.isidentifier() for part in value.split(".")) and "." in value
    if dotted or (isinstance(value, dict) and "class_path" in value):
        raise ValueError(f"Invalid {name}: {value!r} names a class; only a configuration may do so: use another file")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        refuse_class_names(part, name)


def shorten(message: str) -> str:
    """One line of a jsonargparse message: the keys that lead to the value, the innermost reasons, the value."""
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    innermost = message.rpartition("Parser key")[2] if keys else message
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
