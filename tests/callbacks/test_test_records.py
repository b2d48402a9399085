import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_qsgd.callbacks.test_outputs import Numbers, Scores
from lightning_qsgd.callbacks.test_records import ClassRecord, NumberRecord, interval

EQUAL = {"rel": 1e-9, "abs": 1e-12}


def places(numbers):
    return [(0, 0, int(number)) for number in numbers]


def split(total, cuts):
    """Ranges that make up range(total)."""
    ends = sorted({0, total, *(cut % (total + 1) for cut in cuts)})
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def numbers_in_parts(predictions, targets, before, parts, ranks):
    records = [NumberRecord(["a", "b"], True) for _ in range(ranks)]
    for i, part in enumerate(parts):
        rows = list(part)
        records[i % ranks].add(Numbers(predictions[rows], targets[rows], before[rows]), places(rows))
    for other in records[1:]:
        records[0].merge(other)
    return records[0]


@given(st.integers(2, 400), st.lists(st.integers(0, 400)), st.integers(1, 3), st.sampled_from([0, 1e6]))
def test_scores_of_numbers_do_not_depend_on_batches_and_ranks(total, cuts, ranks, offset):
    rng = np.random.default_rng(total)
    targets = rng.normal(offset, [1, 50], (total, 2))
    predictions, before = targets + rng.normal(0.2, 1, (total, 2)), targets + rng.normal(size=(total, 2))
    record = numbers_in_parts(predictions, targets, before, split(total, cuts), ranks)
    errors = predictions - targets
    mse = (errors**2).mean(0)
    rows = record.table()
    table = {name: [row[name] for row in rows] for name in rows[0]}
    assert table["rows"] == [total, total]
    assert table["mse"] == pytest.approx(mse, **EQUAL)
    assert table["mae"] == pytest.approx(np.abs(errors).mean(0), **EQUAL)
    assert table["bias"] == pytest.approx(errors.mean(0), **EQUAL)
    assert table["residual_sd"] == pytest.approx(errors.std(0), **EQUAL)
    assert table["r2"] == pytest.approx(1 - mse / targets.var(0), rel=1e-6, abs=1e-6)
    assert table["skill"] == pytest.approx(1 - mse / ((before - targets) ** 2).mean(0), **EQUAL)
    latest = np.stack(record.latest.rows[::-1])
    np.testing.assert_array_equal(latest, np.stack([predictions, targets, before], 1)[-200:])
    whole = numbers_in_parts(predictions, targets, before, [range(total)], 1)
    np.testing.assert_array_equal(record.sample.rows, whole.sample.rows)


def test_scores_that_are_undefined_are_none():
    constant = np.full((7, 2), 0.1)
    (row, _) = numbers_in_parts(constant + 1, constant, constant, [range(3), range(3, 7)], 1).table()
    assert row["mse"] == pytest.approx(1)
    assert (row["r2"], row["skill"]) == (None, None)


def classes_in_parts(scores, labels, parts, ranks=1, images=None):
    records = [ClassRecord(scores.shape[1], True) for _ in range(ranks)]
    for i, part in enumerate(parts):
        rows = torch.tensor(list(part))
        found = Scores(scores[rows], labels[rows], scores.shape[1], torch.arange(len(rows)), len(rows))
        shown = None if images is None else images[rows]
        records[i % ranks].add(found, places(rows), {"id": rows.tolist()}, shown)
    for other in records[1:]:
        records[0].merge(other)
    return records[0]


@given(st.integers(1, 300), st.integers(2, 9), st.lists(st.integers(0, 300)), st.integers(1, 3))
def test_classes_do_not_depend_on_batches_and_ranks(total, classes, cuts, ranks):
    generator = torch.Generator().manual_seed(total)
    scores = torch.randn(total, classes, generator=generator).mul(3).softmax(-1)
    labels = torch.randint(classes, (total,), generator=generator)
    images = torch.arange(float(total)).view(-1, 1, 1, 1)
    record = classes_in_parts(scores, labels, split(total, cuts), ranks, images)
    expected = multiclass_calibration_error(scores, labels, classes)
    assert record.calibration_error == pytest.approx(float(expected), abs=1e-6)
    assert record.bins[0].sum() == record.confusion.sum() == total
    confidence, predicted = scores.max(-1)
    wrong = [i for i in confidence.argsort(descending=True, stable=True).tolist() if predicted[i] != labels[i]]
    assert [row["id"] for row in record.mistakes.rows] == wrong[:50]
    assert [(row["id"], int(image)) for row, image in record.pictures.rows] == [(i, i) for i in wrong[:16]]


def test_certainty_is_in_the_last_bin():
    scores = torch.tensor([[1.0, 0.0], [0.97, 0.03]])
    record = classes_in_parts(scores, torch.tensor([0, 1]), [range(2)])
    assert record.bins[0].tolist() == [0] * 14 + [2]
    assert record.calibration_error == pytest.approx(0.985 - 0.5)


def test_nan_makes_the_calibration_error_nan():
    scores = torch.tensor([[0.9, 0.1], [float("nan"), 0.5]])
    record = classes_in_parts(scores, torch.tensor([0, 1]), [range(2)])
    assert np.isnan(record.calibration_error)
    assert (record.invalid, record.confusion.tolist(), record.mistakes.rows) == (1, [[1, 0], [1, 0]], [])


def test_memory_does_not_grow_with_the_rows():
    sizes = []
    for total in (4000, 16000):
        rng = np.random.default_rng(0)
        targets = rng.normal(size=(total, 2))
        parts = [range(i, i + 500) for i in range(0, total, 500)]
        scores = torch.tensor(rng.random((total, 5))).float()
        record = numbers_in_parts(targets, targets, targets, parts, 1)
        kept = classes_in_parts(scores, torch.zeros(total, dtype=torch.int64), parts, 1, torch.zeros(total, 1, 9, 9))
        sizes.append(len(pickle.dumps((record, kept))))
    assert sizes[1] < 1.02 * sizes[0]


@given(st.integers(1, 2000), st.data())
def test_intervals_are_wilson_s(trials, data):
    successes = data.draw(st.integers(0, trials))
    z, p = norm.ppf(0.975), successes / trials
    middle = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    assert interval(successes, trials) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_few_examples_are_told_in_words():
    record = ClassRecord(5, False)
    record.confusion[:] = np.diag([0, 1, 9, 10, 0])
    record.confusion[4, 3] = 20
    notes = {row["label"]: row["note"] for row in record.table("abcde")}
    assert notes == {
        "a": "no examples", "b": "one example", "c": "only 9 examples", "d": "", "e": "never predicted",
    }  # fmt: skip
    (never,) = [row for row in record.table("abcde") if row["label"] == "e"]
    assert (never["precision"], never["precision_low"], never["recall"], never["f1"]) == (None, None, 0, 0)
