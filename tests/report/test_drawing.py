"""What figures share."""

import pytest

from lightning_qsgd.report.drawing import canvas, color_keys, reach, style, to_svg


def test_outliers_do_not_decide_the_axis():
    differences = [0.01, -0.012, 0.008, 0.011, -0.009, 0.6]
    assert reach(differences, 0.01) < 0.1
    assert reach([0.02, -0.01], 0.01) == pytest.approx(1.08 * 0.02)
    assert reach([], 0.01) == pytest.approx(0.015)
    assert reach([0.0, 0.0], 0.01) == pytest.approx(1.08 * 0.015)


def test_names_keep_their_colors_and_differ():
    keys = color_keys(["a", "b", "a", *map(str, range(10))])
    assert len(keys) == 12
    assert len(set(keys.values())) == 12


def test_text_is_no_formula():
    with style():
        figure, (axes,) = canvas(1)
        axes.set_title("cost $x_$ <b>")
        assert "<svg" in to_svg(figure)
