"""The documentation site: what is in it, and that it opens without a network."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from api_pages import PAGES, found, prose, rewritten, section
from markdown_it import MarkdownIt

from tests.browser import CHROMIUM, page

ROOT = Path(__file__).parents[1]
INTERNAL = ("report",)  # comparison and audit write their pages by it
PACKAGES = sorted(
    path.parent for path in (ROOT / "lightning_qsgd").glob("*/__init__.py") if path.parent.name not in INTERNAL
)
MARKED = re.compile(r"^<!-- docstring: (\S+) -->$", re.MULTILINE)


def exports(package):
    """Full names of what a package exports."""
    tree = ast.parse((package / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    names = [alias.asname or alias.name for node in imports for alias in node.names]
    return [f"lightning_qsgd.{package.name}.{name}" for name in names]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_reference_has_every_public_name_once(package):
    assert exports(package)
    assert sorted(MARKED.findall((ROOT / f"docs/api/{package.name}.md").read_text())) == sorted(exports(package))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_reference_says_what_the_docstrings_say(path):
    assert path.read_text() == rewritten(path), f"docs/api/{path.name} is out of date; run: python scripts/api_pages.py"


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("See :class:`SinePerturbation`.", "See [`SinePerturbation`](#lightning_qsgd.optim.SinePerturbation)."),
        ("See :class:`QuantumLayer`.", "See [`QuantumLayer`](quantum.md#lightning_qsgd.quantum.QuantumLayer)."),
        ("See :meth:`fresh`.", "See [`fresh`](#lightning_qsgd.optim.Perturbation.fresh)."),
        ("See :func:`_private` and docs/runs.md.", "See `_private` and [runs.md](../runs.md)."),
        ("``2**n`` of 2**n, code\n143. Then", "`2**n` of 2\\*\\*n, code\n143\\. Then"),
    ],
)
def test_words_of_a_docstring_become_markdown(docstring, markdown):
    assert prose(docstring, "lightning_qsgd.optim.Perturbation", "optim.md") == markdown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- docstring: lightning_qsgd.optim.SignTwin -->\n\n## By hand\n", "put <!-- end --> before .*By hand"),
        ("<!-- docstring: lightning_qsgd.optim.NoSuchTwin -->\n", "NoSuchTwin"),
    ],
)
def test_what_a_page_would_lose_is_refused(text, message, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises((ValueError, KeyError), match=message):
        rewritten(tmp_path / "page.md")


def test_an_unknown_section_is_refused():
    with pytest.raises(ValueError, match="Examples"):
        section("Examples", ">>> 1", found("lightning_qsgd.optim.SignTwin"))


class Reader(HTMLParser):
    """What a page refers to: ``loaded`` by the browser, ``links`` for the reader; and the ``anchors`` that it has."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.anchors = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if given.get(name)]
        if given.get("href"):
            reader = tag == "a" or given.get("rel") in ("next", "prev", "canonical")
            (self.links if reader else self.loaded).append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed: make docs installs it")
    folder = tmp_path_factory.mktemp("built") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        outside = [target for target in Reader(path).loaded if re.match(r"(\w+:)?//", target)]
        assert not outside, f"{path.name} loads {outside}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text()), path.name


@pytest.mark.slow
def test_links_lead_somewhere(site):
    pages = {path: Reader(path) for path in site.rglob("*.html") if path.name != "404.html"}
    own = {path: read for path, read in pages.items() if "results" not in path.relative_to(site).parts}
    assert len(own) >= 20
    for path, read in own.items():
        for link in read.links + read.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "data"), f"{path.name} links {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name} links {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name} links {link}"


@pytest.mark.slow
def test_docstrings_and_fences_are_rendered(site):
    for package in PACKAGES:
        text = (site / f"api/{package.name}.html").read_text()
        for name in exports(package):
            assert f'id="{name}"' in text, name
        assert not re.search(r":(class|func|meth):|\.\. math::", text), package.name
    for path in site.glob("*.html"):
        assert not re.search(r"no-run \(|```", path.read_text()), path.name


@pytest.mark.slow
def test_the_reference_has_the_same_layout_in_the_repository(site):
    def layout(html):
        return re.findall(r"<(/?(?:h\d|li|ul|ol|em|strong|pre))\b", html)

    for package in PACKAGES:
        repository = MarkdownIt().render((ROOT / f"docs/api/{package.name}.md").read_text())
        page = (site / f"api/{package.name}.html").read_text()
        assert layout(repository) == layout(page[page.index("<article") : page.index("</article")]), package.name


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_it_opens_from_disk_with_search_and_equations(site, tmp_path):
    with page(tmp_path) as browser:
        browser.send("Emulation.setFocusEmulationEnabled", enabled=True)
        browser.open((site / "index.html").as_uri())
        browser.wait_for(lambda: browser.evaluate("'IFrameWorker' in window && document.readyState === 'complete'"))
        assert browser.evaluate("document.querySelector('math').getBoundingClientRect().height") > 10
        browser.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
        browser.send("Input.insertText", text="transpile")
        browser.send("Input.dispatchKeyEvent", type="keyUp", key="e")
        browser.wait_for(lambda: "matching document" in browser.text)
        assert "Quantum backends" in browser.text
