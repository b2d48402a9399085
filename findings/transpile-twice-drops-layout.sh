#!/usr/bin/env bash
# qiskit 2.6.2: at optimization levels 2 and 3 transpile leaves a swap out and notes it in the layout. A second transpile
# without a device, or inverse(), decompose() and reverse_bits(), return a circuit without a layout: which qubit is which
# is lost, and its outcomes are permuted against the original's, without a word. reverse_ops() keeps the layout, which is
# wrong for it.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 once: [1, 0] twice: None
#   original: [0.961, 0.0, 0.039, 0.0]
#   twice:    [0.961, 0.039, 0.0, 0.0]
#   layouts after inverse, decompose, reverse_bits: None None None
#   after reverse_ops: [1, 0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import QuantumCircuit, __version__, transpile
from qiskit.quantum_info import Statevector

circuit = QuantumCircuit(2)
circuit.ry(0.4, 0)
circuit.swap(0, 1)
once = transpile(circuit, basis_gates=["ry"], optimization_level=2)
twice = transpile(once, optimization_level=0)
print("qiskit", __version__, "once:", once.layout.final_index_layout(), "twice:", twice.layout)
print("original:", Statevector(circuit).probabilities().round(3).tolist())
print("twice:   ", Statevector(twice).probabilities().round(3).tolist())
print("layouts after inverse, decompose, reverse_bits:", once.inverse().layout, once.decompose().layout, once.reverse_bits().layout)
print("after reverse_ops:", once.reverse_ops().layout.final_index_layout())
assert once.layout.final_index_layout() == [1, 0] and twice.layout is None
assert once.inverse().layout is once.decompose().layout is once.reverse_bits().layout is None
assert once.reverse_ops().layout is not None
PYTHON
