"""What our pages need beside MkDocs; mkdocs.yml names this file."""

import re


def on_page_markdown(markdown: str, page: object, config: object, files: object) -> str:
    """Cut what tests/test_docs.py reads, a `no-run (reason)` after a fence's language: MkDocs would see no fence."""
    return re.sub(r"^(```\w+) no-run \(.*\)$", r"\1", markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: object, config: object, files: object) -> str:
    """Docstrings name objects as :class:`Name`; leave the name."""
    return re.sub(r":(?:class|func|meth|attr|mod):(?=<code)", "", html)
