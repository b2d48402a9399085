#!/usr/bin/env bash
# PennyLane 0.45.1 with lightning.qubit 0.45.0: a batch of angles in a MultiRZ or PauliRot, and so a batch of rows in an IQPEmbedding, repeats
# the expectation values: for 3 rows the result has the shape (3, 3) instead of (3,), and a TorchLayer of 2 outputs returns 6. It happens with
# lightning.qubit's default gradient, the adjoint one, also when no gradient is asked for. With diff_method=None, by default.qubit's default
# gradient, and row by row the values are right; default.qubit's adjoint gradient gives (3, 2). The guess was (3,), as AngleEmbedding has.
#
# Seen on 2026-11-30 with Python 3.11:
#   pennylane 0.45.1 pennylane_lightning 0.45.0
#   AngleEmbedding: lightning.qubit (3,), with None (3,), default.qubit (3,), with adjoint (3,)
#   IQPEmbedding: lightning.qubit (3, 3), with None (3,), default.qubit (3,), with adjoint (3, 2)
#   [[0.945, 0.945, 0.945], [0.708, 0.708, 0.708], [0.293, 0.293, 0.293]] instead of [0.945, 0.708, 0.293]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pennylane==0.45.1 pennylane_lightning==0.45.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pennylane as qml

def circuit(embedding, device, gradient):
    @qml.qnode(qml.device(device, wires=2), diff_method=gradient)
    def value(inputs):
        embedding(inputs, wires=range(2))
        return qml.expval(qml.PauliX(0))
    return value

print("pennylane", qml.__version__, "pennylane_lightning", version("pennylane_lightning"))
rows, shapes = np.array([[0.3, 0.5], [0.6, 0.9], [0.9, 1.2]]), []
runs = [("lightning.qubit", "best"), ("lightning.qubit", None), ("default.qubit", "best"), ("default.qubit", "adjoint")]
for embedding in (qml.AngleEmbedding, qml.IQPEmbedding):
    shapes.append([np.shape(circuit(embedding, *run)(rows)) for run in runs])
    print("{}: lightning.qubit {}, with None {}, default.qubit {}, with adjoint {}".format(embedding.__name__, *shapes[-1]))
value = circuit(qml.IQPEmbedding, *runs[0])
print(np.round(value(rows), 3).tolist(), "instead of", [round(float(value(row)), 3) for row in rows])
assert shapes == [[(3,)] * 4, [(3, 3), (3,), (3,), (3, 2)]]
PYTHON
