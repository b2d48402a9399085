"""Write the API reference in docs/api from the docstrings: `python scripts/api_pages.py`.

After a line `<!-- docstring: NAME -->` of a page, the script writes what the docstring of NAME and those of its methods
say, up to the next such line or `<!-- end -->`. The rest of a page is written by hand and stays.
"""

import re
from functools import cache
from pathlib import Path
from textwrap import dedent

import griffe

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
MARK = re.compile(r"^<!-- (?:docstring: (\S+)|end) -->\n", re.MULTILINE)
CALLED_BY_LIGHTNING = re.compile(
    r"on_.*|setup|teardown|prepare_data|configure_\w+|(training|validation|test|predict)_step"
    r"|(train|val|test|predict)_dataloader"
)
SECTION = re.compile(r"^([A-Z]\w+):\n((?:    .*(?:\n|\Z)|\n(?=\n*    ))+)", re.MULTILINE)
LISTS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises", "Warns": "Warns"}
LINE_LENGTH = 80


def names(page: Path) -> list[str]:
    """Public names on a page, in its order."""
    return [name for name in MARK.findall(page.read_text()) if name]


@cache
def package() -> griffe.Object:
    """The package, read from its source; nothing is imported."""
    loaded = griffe.load("lightning_qsgd", search_paths=[ROOT], allow_inspection=False)
    assert isinstance(loaded, griffe.Object)
    return loaded


def found(name: str) -> griffe.Object:
    """The class or function of a public name."""
    target = package()[name.removeprefix("lightning_qsgd.")]
    return target.final_target if isinstance(target, griffe.Alias) else target


def members(name: str) -> dict[str, griffe.Object]:
    """The public methods and properties of a class that have a docstring, by full name."""
    target = found(name)
    return {
        f"{name}.{key}": member
        for key, member in (target.members.items() if target.is_class else ())
        if isinstance(member, griffe.Object) and member.has_docstring
        if not key.startswith("_") and not CALLED_BY_LIGHTNING.fullmatch(key)
    }


@cache
def pages_of_names() -> dict[str, str]:
    """File name of the page that has a name, for classes, functions and their members."""
    return {full: page.name for page in PAGES for name in names(page) for full in (name, *members(name))}


def linked(target: str, owner: str, page: str) -> str:
    """Markdown for ``target``, which the docstring of ``owner`` names: a link, or code where it is on no page."""
    for wanted in (f"{owner}.{target}", target):
        hits = [name for name in pages_of_names() if f".{name}".endswith(f".{wanted}")]
        if len(hits) == 1:
            there = pages_of_names()[hits[0]]
            return f"[`{target}`]({there if there != page else ''}#{hits[0]})"
    return f"`{target}`"


def prose(docstring: str, owner: str, page: str) -> str:
    """Markdown for the words of a docstring: roles become links, and ``code`` becomes `code`."""
    text = re.sub(r":\w+:`([^`]+)`", lambda role: linked(role[1], owner, page), docstring)
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](../\1)", text)
    text = re.sub(r"(?<=\S)\n( *\d+)\. ", r"\n\1\\. ", text)  # within a sentence: no item of a list
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"(`[^`]*`)|(?<=\w)\*\*(?=\w)", lambda part: part[1] or r"\*\*", text)  # a power, not bold


def section(title: str, body: str, target: griffe.Object) -> str:
    """Markdown for a section of the docstring of ``target``: a paragraph, or a list."""
    if title == "Returns":
        return f"**Returns:** {body}"
    if title == "Example":
        return f"**Example:**\n\n```pycon\n{body}\n```"
    if title not in LISTS:
        raise ValueError(f"{target.path} has a section {title!r}; say in scripts/api_pages.py how to write it")
    types = {}
    if title == "Attributes" and isinstance(target, griffe.Class):
        fields = [member for member in target.members.values() if isinstance(member, griffe.Attribute)]
        types = {member.name: member.annotation for member in fields if member.name not in target.parameters}
    items = []
    for text in re.split(r"\n(?=\S)", body):
        head, _, description = text.partition(":")
        after = "\n" if "\n\n" in text else ""  # a paragraph in an item would take the next item
        code = ", ".join(f"`{name}`" for name in head.split(", "))
        code += f" (`{types[head]}`)" if types.get(head) else ""
        items.append(f"- {code}: {description.strip()}{after}")
    return "\n".join([f"**{LISTS[title]}:**\n", *items])


def signature(title: str, target: griffe.Object) -> str:
    """How a class or function is called, or a property's type, as a block of code."""
    label = title if target.labels & {"classmethod", "staticmethod"} else title.rpartition(".")[2]
    if isinstance(target, griffe.Attribute):
        text = f"{label}: {target.annotation}"
    else:
        assert isinstance(target, griffe.Class | griffe.Function)
        text = target.signature(name=label).replace("'", '"')
    if len(text) > LINE_LENGTH:
        head, _, rest = text.partition("(")
        inside, _, returns = rest.rpartition(")")
        text = "\n".join([f"{head}(", *(f"    {one}," for one in arguments(inside)), f"){returns}"])
    return f"```python\n{text}\n```" if text else ""


def arguments(text: str) -> list[str]:
    """What the commas outside of brackets separate."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def entry(name: str, owner: str, level: int, page: str) -> str:
    """Markdown for ``owner``, a class or function, or for its member ``name``."""
    target = members(owner)[name] if name != owner else found(owner)
    assert target.docstring, f"{name} has no docstring"
    title = name.removeprefix(owner.rpartition(".")[0] + ".")
    heading = f'{"#" * level} <a id="{name}"></a>{title}'
    text = prose(target.docstring.value, owner, page)
    text = SECTION.sub(lambda part: section(part[1], dedent(part[2]).strip(), target) + "\n", text)
    return "\n\n".join(part for part in (heading, signature(title, target), text.strip()) if part)


def rewritten(page: Path) -> str:
    """The text of a page, with what the docstrings say now."""
    text, *rest = MARK.split(page.read_text())
    parts = list(zip(rest[::2], rest[1::2], strict=True))
    by_hand = [text, *(part for name, part in parts if name is None)]
    level = 3 if any("\n## " in part for part in by_hand) else 2
    for name, part in parts:
        if name is None:
            text += "<!-- end -->\n" + part
            continue
        if heading := re.search(r"^#+ (?!<a id=).*", part, re.MULTILINE):
            raise ValueError(f"{page.name}: put <!-- end --> before what is written by hand: {heading[0]!r}")
        entries = [entry(name, name, level, page.name)]
        entries += [entry(member, name, level + 1, page.name) for member in members(name)]
        text += f"<!-- docstring: {name} -->\n\n" + "\n\n".join(entries) + "\n\n"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page))
