"""Unambiguous YAML: no repeated keys, and no numbers that people read differently. Below all levels."""

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT, _FLOAT, _BOOL, _NULL, _STR, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "str", "merge")
)
_EXPONENT = re.compile(r"[-+.]?[0-9][0-9_.]*[eE][-+]?[0-9]+")
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values.

    Args:
        path: the path of the file.

    Raises:
        ValueError: if it is not YAML, or :func:`check_yaml` refuses it.
    """
    text = path.read_text(encoding="utf-8")
    check_yaml(text, str(path))
    return yaml.safe_load(text)


def dump_yaml(value: Any) -> str:
    """Write plain values as YAML that reads back unchanged: texts such as ``1e-3`` are quoted."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    def text(self, value: str) -> yaml.ScalarNode:
        """A text, in quotes where the parser, unlike YAML 1.1, takes it for a number, or PyYAML for a line's end."""
        style = "'" if _EXPONENT.fullmatch(value) else '"' if _LINE_ENDS.search(value) else None
        return self.represent_scalar(_STR, value, style)


_Dumper.add_representer(str, _Dumper.text)


def check_yaml(text: str, name: str) -> None:
    """Refuse YAML that would lose a part, or that does not mean what it looks like.

    Refused are a key that is given twice in one mapping, or once nested and once dotted (``trainer: {max_epochs: 1}``
    and ``trainer.max_epochs: 2``); numbers with a leading zero (010 is 8 in YAML) or colons (12:30 is 750); ``on``,
    ``off``, ``yes`` and ``no`` as keys (they are True and False). Merge keys (``<<``) may be overridden.

    Args:
        text: the whole file.
        name: of the file, for the error.

    Raises:
        ValueError: names the key, the file and the line.
    """
    root = _compose(text, name)
    if root is None:
        return
    seen: dict[str, yaml.Node] = {}
    for key, node in _leaves(root, "", name, frozenset()):
        if key in seen:
            raise ValueError(_twice(key, name, seen[key], node))
        seen[key] = node


def without_empty(text: str, name: str, groups: Container[str], entries: Container[str] = ()) -> str:
    """Remove groups of settings that have no value; an empty file becomes ``{}``.

    A group without a value, for example where all lines below ``trainer:`` are comments, would otherwise delete the
    settings of earlier files.

    Args:
        text: the whole file.
        name: of the file, for the error.
        groups: keys at the top that have settings of their own.
        entries: keys at the top in which each key without a value gets ``{}``. Default: none.

    Raises:
        ValueError: if it is no YAML, has no keys, or a group is null.
    """
    text = text.removeprefix("\ufeff")  # marks do not count a byte order mark
    root = _compose(text, name)
    pairs, in_braces = (root.value, root.flow_style) if isinstance(root, yaml.MappingNode) else ([], False)
    for key, value in reversed(pairs):
        if key.value in entries and isinstance(value, yaml.MappingNode):
            for _, entry in reversed(value.value):
                if _is_null(entry) and not entry.value:
                    text = f"{text[: entry.start_mark.index]} {{}}{text[entry.start_mark.index :]}"
        elif key.value in groups and _is_null(value):
            if value.value or in_braces:
                raise ValueError(f"{name}, line {_line(key)}: {key.value} cannot be null; remove it")
            text = text[: key.start_mark.index] + text[value.start_mark.index :]
    root = _compose(text, name)
    if root is None or (_is_null(root) and not root.value):
        return f"{text}\n{{}}\n"
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{name} has no settings; it must have keys and values, such as 'threads: 1'")
    return text


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def without_null(value: Any, name: str = "init_args") -> Any:
    """Replace None by an empty dict at every key ``name`` of a nested value."""
    if isinstance(value, dict):
        return {k: {} if k == name and v is None else without_null(v, name) for k, v in value.items()}
    return [without_null(part, name) for part in value] if isinstance(value, list) else value


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, _LOADER)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{name}{line}: no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: no YAML: {error}") from error


def _leaves(node: yaml.Node, key: str, name: str, above: frozenset[int]) -> Iterator[tuple[str, yaml.Node]]:
    """Yield (dotted key, node) of everything but mappings, and check keys and numbers."""
    if id(node) in above:
        raise ValueError(f"{name}, line {_line(node)}: {key} contains itself")
    above |= {id(node)}
    if not isinstance(node, yaml.MappingNode):
        _check_number(node, key, name)
        yield key, node
        for i, part in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
            yield from _leaves(part, f"{key}[{i}]", name, above)
        return
    seen: dict[tuple[str, str], yaml.Node] = {}
    for part, value in node.value:
        if not isinstance(part, yaml.ScalarNode):  # only sets and the like have those
            continue
        inner = f"{key}.{part.value}" if key else part.value
        if (part.tag, part.value) in seen:
            raise ValueError(_twice(inner, name, seen[part.tag, part.value], part))
        seen[part.tag, part.value] = part
        if part.tag == _BOOL:
            word = f"{name}, line {_line(part)}: the key {part.value} is read as a truth value"
            raise ValueError(f"{word}; write '{part.value}' in quotes")
        _check_number(part, inner, name)
        leaves = _leaves(value, inner, name, above)
        yield from (leaf for leaf in leaves if part.tag != _MERGE)


def _check_number(node: yaml.Node, key: str, name: str) -> None:
    if not isinstance(node, yaml.ScalarNode) or node.style or node.tag not in (_INT, _FLOAT):
        return
    value = yaml.safe_load(node.value)
    if ":" in node.value:
        why = f"{value} in YAML, a number of base 60"
    elif re.fullmatch(r"[-+]?0[0-7_]+", node.value):
        why = f"{value} in YAML, an octal number"
    else:
        return
    raise ValueError(
        f"{name}, line {_line(node)}: {key}: {node.value} is {why}; write a decimal number, or '{node.value}' in quotes"
    )


def _twice(key: str, name: str, first: yaml.Node, second: yaml.Node) -> str:
    way = "write <<: [*a, *b]" if key.rpartition(".")[2] == "<<" else "merge them, or remove one"
    return f"{name}, line {_line(second)}: the key {key!r} is given twice, first in line {_line(first)}; {way}"


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
