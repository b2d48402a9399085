#!/usr/bin/env bash
# qiskit 2.6.2: transpile at optimization level 3 raises TypeError for a cu3 whose three angles are one parameter: the
# differences of angles cancel to expressions without parameters, which copies of the circuit do not take. Levels 0 to 2
# transpile it.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 (0, 'works') (1, 'works') (2, 'works') (3, 'Parameter expression with unbound parameters {} is not numeric.')
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import QuantumCircuit, __version__, transpile
from qiskit.circuit import Parameter
from qiskit.circuit.library import CU3Gate

x = Parameter("x")
circuit = QuantumCircuit(2)
circuit.append(CU3Gate(x, x, x), [0, 1])
found = []
for level in range(4):
    try:
        transpile(circuit, basis_gates=["u", "cz"], optimization_level=level)
        found.append("works")
    except TypeError as error:
        found.append(str(error))
print("qiskit", __version__, *enumerate(found))
assert found[:3] == ["works"] * 3 and "is not numeric" in found[3]
PYTHON
