"""Many fits in one process leave nothing behind: `python scripts/soak.py` runs 200."""

import numpy as np
import pytest
from soak import LIMITS, NAMES, measure, slopes, soak, too_steep

from tests.common import FEW_SHOTS


def test_a_leak_is_found_and_noise_is_not():
    fits, rng = np.arange(60.0), np.random.default_rng(0)
    flat = np.stack([600_000 + rng.normal(0, 500, 60), np.full(60, 4.0), np.full(60, 6.0), np.full(60, 5e5)], 1)
    assert too_steep(slopes(flat, skip=5)) == []
    for column, limit in enumerate(LIMITS):
        leaking = flat.copy()
        leaking[:, column] += 2 * limit * fits
        assert too_steep(slopes(leaking, skip=5)) == [NAMES[column]]


def test_an_open_file_counts():
    before = measure()
    with open("/dev/null"):
        assert measure()[2] == before[2] + 1


@pytest.mark.slow
def test_thirty_fits_leave_nothing_behind(tmp_path):
    rows = soak(30, 8, tmp_path, [FEW_SHOTS, "--monitor.every_n_steps=4"])
    assert too_steep(slopes(rows, skip=10)) == []
