#!/usr/bin/env bash
# qiskit 2.6.2 with qiskit-aer 0.18.2: one transpile(circuit, AerSimulator()) reads the simulator's target some 160 times, and
# AerSimulator builds it anew each time, with an object for each of its gates. That is nearly all of the time: passing
# the target itself gives the same circuit about 40 times faster. The guess was that a backend's target is built once.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 qiskit-aer 0.18.2
#   targets built by transpile(circuit, backend): 158; by transpile(circuit, target=backend.target): 1
#   the same circuit: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 qiskit-aer==0.18.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import qiskit
import qiskit_aer
from qiskit import QuantumCircuit, transpile
from qiskit_aer import AerSimulator

print("qiskit", qiskit.__version__, "qiskit-aer", qiskit_aer.__version__)
built = [0]


class Counted(AerSimulator):
    @property
    def target(self):
        built[0] += 1
        return super().target


circuit = QuantumCircuit(4)
circuit.h(range(4))
circuit.cx(0, 3)
circuit.measure_all()
backend, options = Counted(), {"optimization_level": 1, "seed_transpiler": 0}
slow = transpile(circuit, backend, **options)
by_backend, built[0] = built[0], 0
fast = transpile(circuit, target=backend.target, **options)
print(f"targets built by transpile(circuit, backend): {by_backend}; by transpile(circuit, target=backend.target): {built[0]}")
print("the same circuit:", slow == fast)
assert by_backend > 100 and built[0] == 1 and slow == fast
PYTHON
