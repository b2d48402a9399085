#!/usr/bin/env bash
# PennyLane 0.45.1: QuantumScript.bind_new_parameters(params, indices) gives each operation its new values in the order
# of the operations, not by index: with indices [2, 0] the first value goes to parameter 0 and the second to
# parameter 2, without an error. The guess was that params[k] goes to indices[k], as the documentation says. Indices
# also count all parameters, although the documentation counts those of get_parameters(), which are the trainable ones.
#
# Seen on 2026-11-30 with Python 3.11:
#   pennylane 0.45.1
#   indices [0, 2]: [10.0, 0.2, 30.0]
#   indices [2, 0]: [30.0, 0.2, 10.0]
#   trainable [0, 2], index 1: [0.1, 9.0, 0.3]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pennylane==0.45.1 pennylane_lightning==0.45.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import pennylane as qml

print("pennylane", qml.__version__)


def bound(params, indices, trainable=None):
    tape = qml.tape.QuantumScript([qml.RY(0.1, 0), qml.RX(0.2, 1), qml.RZ(0.3, 1)], trainable_params=trainable)
    return [operation.data[0] for operation in tape.bind_new_parameters(params, indices).operations]


ascending, descending = bound([10.0, 30.0], [0, 2]), bound([30.0, 10.0], [2, 0])
print("indices [0, 2]:", ascending)
print("indices [2, 0]:", descending)
counted = bound([9.0], [1], trainable=[0, 2])
print("trainable [0, 2], index 1:", counted)
assert ascending == [10.0, 0.2, 30.0] and descending == [30.0, 0.2, 10.0] and counted == [0.1, 9.0, 0.3]
PYTHON
