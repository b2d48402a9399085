"""The page is whole, loads nothing, and shows names as they are."""

import re
from html.parser import HTMLParser

import pytest

from lightning_qsgd.report.document import Part
from lightning_qsgd.report.drawing import Drawing
from lightning_qsgd.report.page import to_html, write_page
from tests.report import golden

VOID = {"meta", "link", "img", "source", "br", "wbr"}
TEXT = r"""# title

> It is \<so\>.

## Numbers & names

![a dot](figures/dot_1.svg)

*What a dot\_ is.*

**Beware of \<b\>.**

| name | n |
| :--- | ---: |
| a\|b | 1 |
| <script> | **2** |

## Numbers & names

    compare --config <file>
"""
DOT = Drawing("dot_1", "<svg/>", "a dot", "What a dot_ is.")


class Page(HTMLParser):
    """Checks nesting; keeps elements, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def check_whole(text):
    """A page that is well formed, loads nothing, and whose contents lead to its headings."""
    found = Page(text)
    sources = [attrs[key] for _, attrs in found.elements for key in ("src", "srcset", "href") if key in attrs]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<script", text)
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert [a["href"][1:] for a in found.all("a")] == ids
    assert {attrs.get("scope") for attrs in found.all("th")} <= {"row", "col"}
    assert all(len(attrs["alt"]) > 30 for attrs in found.all("img"))
    return found


def test_the_body_of_a_page():
    page = to_html(TEXT, "title", "A kind", [DOT])
    golden.check("page", "```html\n" + page[page.index("<body>") :] + "\n```\n")


def test_markup_in_the_title_is_text():
    assert "<b>" not in to_html("# x\n", "<b>", "<b>", [])


def test_nothing_is_loaded():
    check_whole(
        to_html(TEXT.replace("a dot", "a dot, described in more than thirty letters"), "title", "A kind", [DOT])
    )


def test_a_figure_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="dot_1"):
        to_html(TEXT, "title", "A kind", [])


def test_files_lie_together(tmp_path):
    paths = write_page("a_b", [Part("Text.\n", [DOT], ["It is.", "So."])], tmp_path, "page", "A kind")
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert (tmp_path / "page.md").read_text() == "# a\\_b\n\n> It is. So.\n\nText.\n"
    assert (tmp_path / "figures" / "dot_1.svg").read_text() == "<svg/>"


def test_the_sentences_of_all_parts_come_first(tmp_path):
    parts = [Part("Text.\n", [], [f"So {name}."], name) for name in ("a", "b_")]
    write_page("t", parts, tmp_path, "page", "A kind")
    said = (tmp_path / "page.md").read_text()
    assert said.startswith("# t\n\n> **a**: So a.\n\n> **b\\_**: So b\\_.\n\n## a\n\nText.\n")
    assert said.endswith("\n## b\\_\n\nText.\n")
