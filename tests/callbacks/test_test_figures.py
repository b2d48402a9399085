import numpy as np
import pytest

from lightning_qsgd.callbacks.test_figures import (
    as_picture,
    calibration_figure,
    confusion_figure,
    drawn,
    forecast_figure,
    mistakes_figure,
    predicted_figure,
    series_of,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 10, 77])
def test_figure_fits_its_classes(classes):
    figure = confusion_figure(np.eye(classes, dtype=int) * 5, [f"class {i}" for i in range(classes)])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-1] == f"class {classes - 1}"
    assert len(figure.axes[0].texts) == (classes if classes <= 20 else 0)


def test_calibration_shows_the_used_bins_with_their_counts():
    bins = np.zeros((3, 15))
    bins[:, 9], bins[:, 14] = (4, 2, 2.5), (10, 10, 9.8)
    figure = calibration_figure(bins, 0.0512, invalid=3)
    upper, lower = figure.axes
    (points,) = upper.containers
    assert points.lines[0].get_xdata() == pytest.approx([0.625, 0.98])
    assert points.lines[0].get_ydata() == pytest.approx([0.5, 1])
    assert [bar.get_height() for bar in lower.patches] == bins[0].tolist()
    assert "expected calibration error 0.051" in upper.get_title(loc="left") + upper.get_title()
    assert "14 rows, 3 with NaN left out" in upper.get_title(loc="left") + upper.get_title()


def test_names_with_steps_are_series():
    assert series_of(["load+2", "load+1", "heat + 1"]) == {"load": [(1, 1), (2, 0)], "heat": [(1, 2)]}
    assert series_of(["load+1", "C++"]) == {"load+1": [(1, 0)], "C++": [(1, 1)]}


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["sun+1"], ["sun: RMSE 1, persistence 2"]),
        (
            ["sun+1", "sun+2", "sun+3"],
            ["sun, 1 step ahead: RMSE 1, persistence 2", "sun, 3 steps ahead: RMSE 3, persistence 6",
             "sun: error by steps ahead"],
        ),
        (["a", "b"], ["a: RMSE 1, persistence 2", "b: RMSE 2, persistence 4"]),
    ],
)  # fmt: skip
def test_a_forecast_shows_its_first_and_last_step(names, titles):
    errors = 1.0 + np.arange(len(names))
    figure = forecast_figure(RNG.normal(size=(20, 3, len(names))), names, errors, 2 * errors, 50)
    assert [axes.get_title() for axes in figure.axes] == titles
    assert figure.get_suptitle() == "Forecast: the last 20 of 50 rows"
    assert figure.axes[0].lines[0].get_xdata().tolist() == list(range(30, 50))
    if len(names) == 3:
        assert figure.axes[-1].lines[0].get_ydata().tolist() == [1, 2, 3]


def test_more_targets_than_fit_are_told():
    figure = predicted_figure(RNG.normal(size=(30, 2, 4)), [f"y{k}" for k in range(9)], 400)
    assert len(figure.axes) == 12
    assert figure.get_suptitle() == (
        "Predicted against true: 30 of 400 rows, drawn at random; the first 4 of 9 targets, all of them in targets.csv"
    )


def test_rows_that_are_not_finite_are_left_out_and_told():
    sample = RNG.normal(size=(30, 2, 1))
    sample[3, 0], sample[4, 1] = np.nan, np.inf
    figure = predicted_figure(sample, ["y"], 30)
    assert len(figure.axes[0].collections[0].get_offsets()) == 28
    assert figure.axes[1].get_title() == "Residuals (2 not finite, left out)"
    assert drawn(predicted_figure, sample * np.nan, ["y"], 30).shape[2] == 3


def test_mistakes_are_pictures_with_texts():
    pictures = [RNG.random((4, 4)), RNG.random((4, 4, 3))] * 3
    figure = mistakes_figure(pictures, [f"mistake {k}" for k in range(6)], 17)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"mistake {k}" for k in range(6)]
    assert figure.get_suptitle() == "Mistakes: the 6 most confident of 17 mistakes"


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 3)), (2, (2, 3)), (3, (2, 3, 3))])
def test_any_image_is_scaled_to_a_picture(channels, shape):
    picture = as_picture(RNG.normal(5, 3, size=(channels, 2, 3)))
    assert picture.shape == shape
    assert (picture.min(), picture.max()) == (0, 1)
    assert (as_picture(np.full((channels, 2, 3), 7.0)) == 0).all()
