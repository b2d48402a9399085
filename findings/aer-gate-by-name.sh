#!/usr/bin/env bash
# qiskit-aer 0.18.2 and qiskit 2.6.2: a gate of one's own that is called like a standard gate stays in the circuit when it
# is transpiled for AerSimulator, whose basis has that name, and Aer runs the standard gate instead. Qiskit's Statevector
# runs the gate's own definition.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 qiskit-aer 0.18.2 statevector: [0.978, 0.022]
#   {'0': 482, '1': 518}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1 qiskit-aer==0.18.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import QuantumCircuit, __version__, transpile
from qiskit.quantum_info import Statevector
from qiskit_aer import AerSimulator
from qiskit_aer import __version__ as aer

block = QuantumCircuit(1, name="sx")
block.ry(0.3, 0)
circuit = QuantumCircuit(1)
circuit.append(block.to_gate(), [0])
print("qiskit", __version__, "qiskit-aer", aer, "statevector:", Statevector(circuit).probabilities().round(3).tolist())
circuit.measure_all()
backend = AerSimulator()
counts = backend.run(transpile(circuit, backend), shots=1000, seed_simulator=1).result().get_counts()
print(dict(sorted(counts.items())))
assert counts["1"] > 400  # 22 are right
PYTHON
