#!/usr/bin/env bash
# qiskit 2.6.2: StatevectorSampler runs a circuit with a reset in its middle, without an error, and draws all shots of it
# from one random branch of the reset. A Bell pair of which one qubit is reset leaves the other one mixed: half of the
# shots should show 0, half 1. Each call shows one of them only; the next call may show the other.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 density matrix: [0.5, 0.0, 0.5, 0.0]
#   [{'10': 1000}, {'00': 1000}, {'10': 1000}, {'10': 1000}, {'00': 1000}]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import QuantumCircuit, __version__
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import DensityMatrix

circuit = QuantumCircuit(2)
circuit.h(0)
circuit.cx(0, 1)
circuit.reset(0)
print("qiskit", __version__, "density matrix:", DensityMatrix(circuit).probabilities().round(3).tolist())
circuit.measure_all()
counts = [StatevectorSampler(seed=seed).run([circuit], shots=1000).result()[0].data.meas.get_counts() for seed in range(5)]
print(counts)
assert all(len(each) == 1 for each in counts)
assert len({outcome for each in counts for outcome in each}) == 2
PYTHON
