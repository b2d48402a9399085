"""The page is whole, loads nothing, and shows names as they are."""

import re
from html.parser import HTMLParser

import pytest

from lightning_qsgd.comparison.analysis import analyse
from lightning_qsgd.comparison.html import render
from lightning_qsgd.comparison.sections import Task, task
from tests.comparison.common import fake_results

VOID = {"meta", "link", "img", "source", "br", "wbr"}


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


def page(*args, **options):
    return render("title", [task(analyse(fake_results(*args, **options)), "1")])


@pytest.fixture(scope="module")
def rich():
    return page(
        {"a": 0.0, "b": 0.03, "b/frozen": 0.03},
        ["b - a", "b - b/frozen"],
        twins={"b": ["frozen"]},
        claims={"b": ["a"]},
        dose={"s": ["a", "b"]},
        live={"b": {"norm_ratio": 0.001}},
    )


def test_it_is_one_whole_page_that_loads_nothing(rich):
    found = Page(rich)
    sources = [attrs[key] for _, attrs in found.elements for key in ("src", "srcset", "href") if key in attrs]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<script", rich)
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for a in found.all("a")} == set(ids)


def test_figures_have_alternatives_and_captions(rich):
    found = Page(rich)
    assert len(found.all("img")) == 7
    assert all(len(attrs["alt"]) > 30 for attrs in found.all("img"))
    assert len(found.all("figcaption")) == len(found.all("figure"))


def test_tables_have_headers_for_rows_and_columns(rich):
    found = Page(rich)
    assert {attrs.get("scope") for attrs in found.all("th")} == {"row", "col"}
    assert "93.0" in found.text
    assert 'data-verdict="better"' in rich


def test_names_and_errors_are_no_markup():
    text = render(
        "<script>", [task(analyse(fake_results({"a": 0.0, "<b>&$x_$": 0.0}, ["<b>&$x_$ - a"], failed=[("a", 1)])), "1")]
    )
    assert "<b>" not in text
    assert "<script" not in text
    assert "<b>&$x_$ - a" in Page(text).text


def test_the_kind_of_page_and_its_subject_are_said_once():
    task = Task("1", "t", ["It is so."], False, [], subject="Audited: this.")
    found = Page(render("title", [task], kind="audit of something")).text
    assert found.count("title: audit of something") == 1
    assert found.count("Audit of something\n") == 1
    assert found.index("It is so.") < found.index("Audited: this.")
    assert "comparison" not in found.lower()
