"""What our pages need beside MkDocs; mkdocs.yml names this file."""

import re


def on_page_markdown(markdown: str, page: object, config: object, files: object) -> str:
    """Cut what the tests read and MkDocs would see no fence for; write what reports escape as Python-Markdown reads it.

    A link to a comparison's report leads to the page beside it.
    """
    markdown = re.sub(r"^(```\w+) no-run \(.*\)$", r"\1", markdown, flags=re.MULTILINE)
    return re.sub(r"(\]\([^)]*\breport)\.md\)", r"\1.html)", markdown.replace(r"\<", "&lt;"))
