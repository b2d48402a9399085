#!/usr/bin/env bash
# qiskit-aer 0.18.2: a parameter of a controlled gate (cp, crx, cry, crz, mcp, open controls) is not bound by its SamplerV2;
# the gate runs with angle 0, without an error. In qiskit 2.6.2 is_parameterized() is False for these gates, since their
# parameters belong to the base gate.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 qiskit-aer 0.18.2 is_parameterized: False
#   statevector at pi: [0.25, 0.25, 0.25, 0.25]
#   [{'00': 1000}, {'00': 1000}]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1 qiskit-aer==0.18.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from math import pi

from qiskit import QuantumCircuit, __version__
from qiskit.circuit import Parameter
from qiskit.quantum_info import Statevector
from qiskit_aer import __version__ as aer
from qiskit_aer.primitives import SamplerV2

x = Parameter("x")
circuit = QuantumCircuit(2)
circuit.h([0, 1])
circuit.cp(x, 0, 1)
circuit.h([0, 1])
print("qiskit", __version__, "qiskit-aer", aer, "is_parameterized:", circuit.data[2].operation.is_parameterized())
print("statevector at pi:", Statevector(circuit.assign_parameters({x: pi})).probabilities().round(3).tolist())
circuit.measure_all()
counts = [SamplerV2(seed=1).run([(circuit, [value])], shots=1000).result()[0].data.meas.get_counts() for value in (0, pi)]
print(counts)
assert counts == [{"00": 1000}] * 2
PYTHON
