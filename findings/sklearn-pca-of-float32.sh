#!/usr/bin/env bash
# scikit-learn 1.9.1: PCA of float32 data that lie far from zero finds other components than of the same data in float64, without a word.
# Where there are more than ten rows a column, the default solver takes the covariance from products of the raw data, and subtracts that of
# the means, in float32 (the documentation speaks of a covariance of centered data). PCA(0.9) keeps one component of three here, where two
# are needed, and its first one is a mixture. svd_solver="full" is right. Temperatures in kelvin, pressures in hPa and years are such data.
#
# Seen on 2026-11-30 with Python 3.11:
#   scikit-learn 1.9.1 numpy 2.4.6, standard deviations 3, 2 and 1, means 5,000
#   float64:       2 components, shares [0.649, 0.274], the first [1.0, -0.01, -0.0]
#   float32:       1 components, shares [0.977], the first [0.72, 0.67, 0.18]
#   float32, full: 2 components, shares [0.649, 0.274], the first [1.0, -0.01, -0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.decomposition import PCA

print("scikit-learn", sklearn.__version__, "numpy", np.__version__ + ", standard deviations 3, 2 and 1, means 5,000")
rows = (np.random.default_rng(0).normal(size=(1000, 3)) * [3, 2, 1] + 5000).astype(np.float32)


def shares(name, data, solver="auto"):
    pca = PCA(0.9, svd_solver=solver).fit(data)
    found = [pca.explained_variance_ratio_.astype(float), pca.components_[0].astype(float)]
    print(f"{name:14} {pca.n_components_} components, shares {found[0].round(3).tolist()}, the first {found[1].round(2).tolist()}")
    return found[0]


double, single, full = shares("float64:", rows.astype(np.float64)), shares("float32:", rows), shares("float32, full:", rows, "full")
assert abs(single[0] - double[0]) > 0.05 and np.allclose(full, double, atol=1e-3)
PYTHON
