import csv
import warnings
from datetime import date, datetime, timedelta

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_qsgd.callbacks import PredictionWriter
from lightning_qsgd.datamodules import Windows

#: Each value tells its row: load is the row's number squared, heat ten times that number.
ROWS = 100
COLUMNS = {"load": [i * i for i in range(ROWS)], "heat": [10 * ((7 * i) % 23) for i in range(ROWS)]}
DAYS = {"day": [date(2024, 1, 1) + timedelta(i) for i in range(ROWS)]}


@pytest.fixture
def series(tmp_path):
    """Writes columns as CSV, with some cells replaced; returns the path."""

    def write(name="series.csv", columns=COLUMNS, **cells):
        columns = {column: [*map(str, values)] for column, values in columns.items()}
        for place, value in cells.items():
            column, row = place.rsplit("_", 1)
            columns[column][int(row)] = value
        lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values()))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return write


def ready(*arguments, window=4, **options):
    data = Windows(*arguments, window=window, **options)
    data.setup("fit")
    return data


def all_windows(data, split):
    rows = data.rows(split)
    return rows.__getitems__(range(len(rows)))


def own_units(data, name, batch):
    return (torch.tensor(data.target_mean) + torch.tensor(data.target_scale) * batch[name]).numpy()


def test_a_window_holds_its_rows_and_the_next_ones_are_its_targets(series):
    data = ready(series(), horizon=3, target_columns=["heat", "load"])
    assert data.predicts == "numbers"
    assert data.input_shape == (4, 2)
    assert data.target_names == ["heat+1", "heat+2", "heat+3", "load+1", "load+2", "load+3"]
    assert data.num_targets == 6
    table = np.stack([COLUMNS["load"], COLUMNS["heat"]], 1).astype(float)
    scaled = (table - table[:80].mean(0)) / table[:80].std(0)
    for split in ("train", "val", "test"):
        batch = all_windows(data, split)
        assert batch["inputs"].dtype == batch["targets"].dtype == batch["persistence"].dtype == torch.float32
        for i, last in enumerate(batch["id"].tolist()):
            np.testing.assert_allclose(batch["inputs"][i], scaled[last - 3 : last + 1], rtol=1e-5, atol=1e-6)
        targets, persistence = own_units(data, "targets", batch), own_units(data, "persistence", batch)
        for i, last in enumerate(batch["id"].tolist()):
            future = table[last + 1 : last + 4]
            np.testing.assert_allclose(targets[i], [*future[:, 1], *future[:, 0]], rtol=1e-4, atol=1e-2)
            np.testing.assert_allclose(persistence[i], np.repeat(table[last, ::-1], 3), rtol=1e-4, atol=1e-2)


@given(
    st.integers(60, 100), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.sampled_from([0.1, 0.13, 0.2]),
    st.sampled_from([0.1, 0.25]),
)  # fmt: skip
def test_parts_follow_each_other_and_share_no_row(tmp_path_factory, rows, window, horizon, stride, val, test):
    path = tmp_path_factory.getbasetemp() / "series.csv"
    path.write_text("a\n" + "".join(f"{i * i}\n" for i in range(rows)))
    data = ready(str(path), window=window, horizon=horizon, stride=stride, val_share=val, test_share=test)
    seen = []
    for split in ("train", "val", "test"):
        last = all_windows(data, split)["id"].numpy()
        assert (np.diff(last) == stride).all()
        seen.append((last.min() - window + 1, last.max() + horizon))
    (first, end), *_ = seen
    assert first == 0
    assert seen[0][1] < seen[1][0] <= seen[1][1] < seen[2][0]
    assert end <= seen[-1][1] <= rows - 1
    predicted = all_windows(data, "predict")
    assert predicted["id"][-1] == rows - 1
    assert "targets" not in predicted
    assert (np.diff(predicted["id"]) == stride).all()


def test_scaling_knows_the_training_part_only(series):
    data = ready(series())
    np.testing.assert_allclose(data.target_mean, [np.mean(COLUMNS[name][:80]) for name in ("load", "heat")])
    np.testing.assert_allclose(data.target_scale, [np.std(COLUMNS[name][:80]) for name in ("load", "heat")])
    later = ready(series(load_95="-1000000"))
    assert later.shift == data.shift
    scaled = all_windows(ready(series(), scale="minmax"), "train")["inputs"]
    assert scaled.min() == -1
    assert scaled.max() == 1


class Repeats(L.LightningModule):
    """Predicts the last value of each target, in its own units."""

    def predict_step(self, batch):
        data = self.trainer.datamodule
        return torch.tensor(data.target_mean) + torch.tensor(data.target_scale) * batch["persistence"]


def predicted(data, folder, devices=1):
    folder.mkdir()
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="auto" if devices == 1 else "ddp_fork", logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[PredictionWriter()], default_root_dir=folder,
    )  # fmt: skip
    trainer.predict(Repeats(), data, return_predictions=False)
    with (folder / "predictions.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_predictions_have_their_place_in_time_on_one_rank_and_two(series, tmp_path):
    fitted = ready(series(columns=COLUMNS | DAYS), time_column="day", horizon=2, columns=["heat"])
    new = {name: values[20:31] for name, values in (COLUMNS | DAYS).items()}
    data = Windows(
        predict_file=series("new.csv", new), window=4, horizon=2, time_column="day", stride=3, batch_size=1,
        num_workers=1,
    )  # fmt: skip
    data.load_state_dict(fitted.state_dict())
    rows = predicted(data, tmp_path / "one")
    assert list(rows[0]) == ["id", "time", "heat+1", "heat+2"]
    assert [row["id"] for row in rows] == ["4", "7", "10"]
    assert rows[-1]["time"] == str(DAYS["day"][30]) == "2024-01-31"
    assert float(rows[-1]["heat+2"]) == pytest.approx(COLUMNS["heat"][30], rel=1e-4)
    assert predicted(data, tmp_path / "two", devices=2) == rows


def test_state_is_plain_and_refuses_other_windows(series, tmp_path):
    data = ready(series())
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    new = Windows(test_file=series("new.csv", load_3="7"), window=4)
    new.load_state_dict(state)
    assert new.input_shape == (4, 2)
    assert len(new.rows("test")) == 96
    for options, message in (({"window": 5}, "Invalid window: 5; .* with 4"), ({"horizon": 2}, "Invalid horizon: 2")):
        other = Windows(series(), **({"window": 4} | options))
        other.load_state_dict(state)
        with pytest.raises(ValueError, match=message):
            other.test_dataloader()
    changed = Windows(series(load_3="7"), window=4)
    changed.load_state_dict(state)
    with pytest.warns(UserWarning, match="the model may have been trained with some of these test rows"):
        changed.test_dataloader()


def test_missing_values_are_refused_or_repeated_from_the_past(series, caplog):
    path = series(load_10="", load_11="", heat_90="")
    with pytest.raises(ValueError, match=r"lines 12, 13: 'load' is missing; fill it in, or set missing: previous"):
        ready(path)
    caplog.set_level("INFO")
    data = ready(path, missing="previous", scale="none", target_columns=["load"])
    assert "2 of 76 train windows are left out: a target is missing" in caplog.text
    batch = all_windows(data, "train")
    assert set(range(3, 79)) - set(batch["id"].tolist()) == {9, 10}
    place = batch["id"].tolist().index(12)
    assert batch["inputs"][place, :, 0].tolist() == [81, 81, 81, 144]
    with pytest.raises(
        ValueError, match=r"line 2: 'load' has no value before that could be repeated; remove these rows"
    ):
        ready(series(load_0=""), missing="previous")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({3: "2024-01-03"}, r"line 5: 'day' does not increase: 2024-01-03 follows 2024-01-03; sort the rows, keep one"),
        ({3: "3/1/2024"}, r"line 5: 'day' is not a time: '3/1/2024'; write numbers, or dates such as 2024-05-31"),
        ({3: ""}, r"line 5: 'day' is not a time: ''"),
        ({3: "17"}, r"'day' holds numbers and dates"),
        ({3: "2024-01-04T00:00Z"}, r"'day' holds numbers and dates, or dates with and without zone; write one kind"),
    ],
)
def test_times_must_increase(series, times, message):
    cells = {f"day_{row}": text for row, text in times.items()}
    with pytest.raises(ValueError, match=message):
        ready(series(columns=COLUMNS | DAYS, **cells), time_column="day")


@pytest.mark.parametrize(
    "times",
    [
        [f"{1749 + i // 12}-{i % 12 + 1:02}" for i in range(ROWS)],
        [f"{1900 + i}-07-01" for i in range(ROWS)],
        [date(2020 + (i + 1) // 12, (i + 1) % 12 + 1, 1) - timedelta(1) for i in range(ROWS)],  # ends of months
        [datetime(2024, 1, 1) + timedelta(minutes=30 * i) for i in range(ROWS)],
        [0.1 * i for i in range(ROWS)],
        [f"2024-03-{30 + i // 24}T{i % 24:02}:00+01:00" for i in range(48)],
        [1_700_000_000 + i for i in range(ROWS)],
    ],
    ids=["months", "years", "ends of months", "half hours", "tenths", "zone", "seconds since 1970"],
)
def test_equal_steps_are_no_warning_and_a_gap_is_one(series, times, recwarn):
    columns = {name: values[: len(times)] for name, values in COLUMNS.items()}
    columns = {"t": times} | columns
    ready(series(columns=columns), time_column="t", val_share=0.2, test_share=0.2)
    assert not recwarn.list
    gap = {name: values[:20] + values[21:] for name, values in columns.items()}
    with pytest.warns(
        UserWarning, match=r"line 22: the step of 't' differs from the usual .* \(\d+ of \d+ steps\); wind"
    ):
        ready(series("gap.csv", gap), time_column="t", val_share=0.2, test_share=0.2)


def test_the_usual_step_is_a_plain_number(series):
    days = [20240000 + i for i in range(ROWS) if i != 10]
    path = series(columns={"day": days, "load": COLUMNS["load"][1:]})
    with pytest.warns(UserWarning, match=r"line 12: the step of 'day' differs from the usual 1.0 \(97 of 98 steps\)"):
        ready(path, time_column="day")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "Invalid window: 0; it must be at least 1"),
        ({"horizon": 0}, "Invalid horizon: 0"),
        ({"columns": []}, r"Invalid columns: \[\]; give at least one column, and none twice"),
        (
            {"columns": ["day"], "time_column": "day"},
            "Invalid columns: .*; 'day' is the time_column, which is no input",
        ),
        ({"missing": "mean"}, "Invalid missing: mean; use one of refuse, previous"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Windows(**options)


def test_data_that_do_not_fit_are_refused_or_warned_of(series):
    with pytest.raises(
        ValueError, match=r"10 rows for val hold no window of 21 rows \(window 20 \+ horizon 1\); lower"
    ):
        ready(series(), window=20)
    with pytest.raises(
        ValueError, match=r"column 'day' holds no numbers there: .*name a column of times by time_column"
    ):
        ready(series(columns=DAYS | COLUMNS))
    with pytest.raises(ValueError, match=r"column 'rain' \(a column of the series\) is missing; there are: load, heat"):
        ready(series(), target_columns=["rain"])
    with pytest.raises(ValueError, match=r"Invalid target_columns: \['same'\]; the training part holds one value"):
        ready(series(columns=COLUMNS | {"same": [3] * ROWS}), columns=["load"], target_columns=["same"])
    with pytest.raises(ValueError, match=r"Invalid target_columns: \['same'\]"):  # the mean of 0.1 is rounded
        ready(series(columns=COLUMNS | {"same": [0.1] * ROWS}), columns=["load"], target_columns=["same"])
    with pytest.warns(
        UserWarning, match="'hour' increases by equal steps, as times do; if it holds times, set time_co"
    ):
        ready(series(columns=COLUMNS | {"hour": range(ROWS)}))
    with pytest.warns(UserWarning, match="one value in the training part: same; as inputs they are 0; leave them out"):
        ready(series(columns=COLUMNS | {"same": [3] * ROWS}), target_columns=["load"])


def test_files_for_each_part_and_what_fit_says(series, caplog):
    caplog.set_level("INFO")
    late, later = ({name: [value + i for value in values] for name, values in COLUMNS.items()} for i in (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = {"val_file": series("val.csv", late), "test_file": series("test.csv", later)}
        data = ready(series(), **files, horizon=2)
    assert "95 windows to train, 95 to validate, 95 to test; 4 x 2 inputs to forecast load+1, load+2" in caplog.text
    (first, *_) = data.train_dataloader()
    assert set(first) == {"inputs", "targets", "persistence", "id"}


def test_windows_that_two_files_share_are_counted(series):
    columns = DAYS | COLUMNS
    half = {name: values[70:] for name, values in columns.items()}
    with pytest.warns(UserWarning, match=r"Some windows are also in an earlier split .*: 16 of 26 val windows"):
        ready(
            series(columns=columns), val_file=series("val.csv", half), time_column="day"
        )  # test are the last ten rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = half | {"day": [day + timedelta(1000) for day in half["day"]]}  # a night like another one
        ready(series(columns=columns), val_file=series("val.csv", moved), time_column="day")
