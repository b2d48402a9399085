"""What a template may print."""

import jinja2
import pytest

from lightning_qsgd.report import document
from lightning_qsgd.report.document import escape, render
from lightning_qsgd.report.drawing import Drawing


@pytest.fixture
def filled(monkeypatch):
    """Fills in a template that is given as text."""

    def fill(text, **facts):
        environment = document._environment()
        environment.loader = jinja2.DictLoader({"own.md.j2": text})
        monkeypatch.setattr(document, "_environment", lambda: environment)
        return render(
            "own", facts, {"picture": Drawing("dot", "<svg/>", "alt", "caption"), "none": None}, ["So."], "1_", "name"
        )

    return fill


def test_markup_is_escaped(filled):
    assert escape("a_b|<c>\n*d* & e") == r"a\_b\|\<c\> \*d\* &amp; e"
    assert filled("*{{ x }}*", x="a*b").text == "*a\\*b*\n"


@pytest.mark.parametrize("value", [0.5, None, True, [1], {"a": 1}])
def test_no_value_is_printed_without_a_format(filled, value):
    with pytest.raises(TypeError, match="give it a format"):
        filled("{{ x }}", x=value)


def test_whole_numbers_and_formatted_ones_are_printed(filled):
    assert filled("{{ 2 }} {{ -0.00001 | number('.4f') }} {{ True | plain }}").text == "2 0.0000 yes\n"


def test_a_fact_that_is_not_there_is_an_error(filled):
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        filled("{{ missing }}")


def test_columns_are_aligned_by_their_type(filled):
    said = filled('{{ columns({"a|b": "text", "n#": "number"}) }}').text
    assert said == "| a\\|b | n# |\n| :--- | ---: |\n"
    with pytest.raises(KeyError, match="words"):
        filled('{{ columns({"a": "words"}) }}')


def test_figures_have_names_of_their_part(filled):
    part = filled("{{ drawings.picture.name }}{{ 'no' if not drawings.none }}\n\n\n\nend")
    assert part.text == "1\\_dotno\n\nend\n"
    assert [drawing.name for drawing in part.drawings] == ["1_dot"]
    assert (part.summary, part.heading) == (["So."], "name")
