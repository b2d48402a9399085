#!/usr/bin/env bash
# qiskit 2.6.2: Gate.control() of a gate of one's own that is called like a standard gate controls the standard gate: both
# the definition and the matrix of the result are those of CX here, although its base_gate is the block.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 definition: {'cx': 1}
#   base gate: {'ry': 1}
#   is CX: True
#   is the block under control: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from qiskit import QuantumCircuit, __version__
from qiskit.circuit.library import CXGate
from qiskit.quantum_info import Operator

block = QuantumCircuit(1, name="x")
block.ry(0.7, 0)
controlled = block.to_gate().control(1)
right = np.eye(4)
right[1::2, 1::2] = Operator(block).data.real
print("qiskit", __version__, "definition:", dict(controlled.definition.count_ops()))
print("base gate:", dict(controlled.base_gate.definition.count_ops()))
print("is CX:", np.allclose(Operator(controlled).data, CXGate().to_matrix()))
print("is the block under control:", np.allclose(Operator(controlled).data, right))
assert np.allclose(Operator(controlled).data, CXGate().to_matrix())
PYTHON
