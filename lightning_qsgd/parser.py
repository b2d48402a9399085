"""A parser of arguments and YAML whose errors are one line. Level 1."""

import re
import sys
from typing import NoReturn

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
            f"error: {scrubbed(shorten(message))}; all settings: {parser.prog.replace(' [options]', '')} --help\n"
        )
        sys.exit(2)


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
