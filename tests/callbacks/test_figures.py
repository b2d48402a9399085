import numpy as np

from lightning_qsgd.callbacks.figures import drawing_image, outcome_picture
from lightning_qsgd.quantum import superposition_circuit

BLUE = np.array([31, 119, 180])  # matplotlib's tab:blue


def blue(image):
    """Pixels of measured bars."""
    return int((np.abs(image.astype(int) - BLUE).sum(-1) < 10).sum())


def test_a_drawing_grows_with_its_circuit():
    small, large = (drawing_image(str(superposition_circuit(n).circuit.draw("text", fold=80))) for n in (2, 4))
    assert small.dtype == np.uint8
    assert large.shape[0] > small.shape[0]
    assert 0.01 < (large < 128).mean() < 0.3  # black on white


def test_bars_are_as_high_as_the_probabilities_each_time():
    picture = outcome_picture(2, ("measured",))
    exact = np.full(4, 0.25)
    first = picture.draw({"exact": exact, "measured": np.array([0.2, 0.2, 0.3, 0.3])})
    legend = blue(picture.draw({"exact": exact, "measured": np.zeros(4)}))
    low = blue(picture.draw({"exact": exact, "measured": np.full(4, 0.1)})) - legend
    high = blue(picture.draw({"exact": exact, "measured": np.full(4, 0.2)})) - legend
    assert abs(high / low - 2) < 0.05
    again = picture.draw({"exact": exact, "measured": np.array([0.2, 0.2, 0.3, 0.3])})
    assert np.array_equal(first, again)  # nothing of the pictures between is left
    assert outcome_picture(2, ("measured",)) is picture  # of another run in this process


def test_many_outcomes_are_shown_as_the_likeliest_and_the_others():
    p = np.linspace(0, 1, 64)
    p /= p.sum()
    image = outcome_picture(6, ("series",)).draw({"exact": p, "series": p})
    assert image.shape == (360, 640, 3)
