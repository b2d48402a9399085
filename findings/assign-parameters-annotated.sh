#!/usr/bin/env bash
# qiskit 2.6.2: QuantumCircuit.assign_parameters returns a new circuit, yet where a gate is annotated it also writes into
# the definition that the original's gate shares: here the global phase of a block under an annotated control. The
# original circuit then no longer depends on its parameter, which it still lists; a second assignment changes nothing.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 before: 4*x ['x']
#   the original after an assignment: 1.0 ['x']
#   phases of the two assigned circuits: 1.0 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import QuantumCircuit, __version__
from qiskit.circuit import AnnotatedOperation, ControlModifier, Parameter

x = Parameter("x")
block = QuantumCircuit(1, global_phase=4 * x)
circuit = QuantumCircuit(2)
circuit.append(AnnotatedOperation(block.to_gate(), ControlModifier(1)), [0, 1])
circuit.ry(x, 1)


def phase(of):
    return of.data[0].operation.base_op.definition.global_phase


print("qiskit", __version__, "before:", phase(circuit), [p.name for p in circuit.parameters])
first = circuit.assign_parameters({x: 0.25})
print("the original after an assignment:", phase(circuit), [p.name for p in circuit.parameters])
second = circuit.assign_parameters({x: 0.5})
print("phases of the two assigned circuits:", phase(first), phase(second))
assert phase(circuit) == 1.0 and phase(second) == 1.0
PYTHON
