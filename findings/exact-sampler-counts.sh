#!/usr/bin/env bash
# qiskit-machine-learning 0.9.1: SamplerQNN with an exact QMLSampler(shots=None) does not return the statevector's
# probabilities. The sampler's result holds them in full precision (get_probabilities), but SamplerQNN asks for counts,
# for which each probability is replaced by the first fraction m / 2**k within 1e-12 of it, and the likeliest outcome
# takes what is then missing. Probabilities below 1e-12 become 0, and the search for the fractions takes more than half
# of a forward pass's time. The guess was an agreement to 1e-15.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit-machine-learning 0.9.1, largest error of SamplerQNN: 4.0e-12, of get_probabilities: 2.2e-16
#   an outcome of probability 2.5e-13 becomes 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 qiskit-machine-learning==0.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import qiskit_machine_learning
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit_machine_learning.neural_networks import SamplerQNN
from qiskit_machine_learning.primitives import QMLSampler

x = ParameterVector("x", 3)
circuit = QuantumCircuit(3)
for q in range(3):
    circuit.ry(x[q], q)
rows = np.random.default_rng(0).uniform(0, 3, (50, 3))
ones = np.sin(rows / 2) ** 2
truth = np.ones((50, 8))
for outcome in range(8):
    for q in range(3):
        truth[:, outcome] *= ones[:, q] if outcome >> q & 1 else 1 - ones[:, q]
sampler = QMLSampler(shots=None)
network = SamplerQNN(circuit=circuit, sampler=sampler, input_params=list(x), interpret=int, output_shape=8)
error = np.abs(network.forward(rows, []) - truth).max()
measured = circuit.measure_all(inplace=False)
found = sampler.run([(measured, rows)]).result()[0].data.meas.get_probabilities()
direct = max(abs(p - truth[row, int(bits, 2)]) for row in range(50) for bits, p in found[row].items())
version = qiskit_machine_learning.__version__
print(f"qiskit-machine-learning {version}, largest error of SamplerQNN: {error:.1e}, of get_probabilities: {direct:.1e}")
small = network.forward(np.array([[1e-6, 0, 0]]), [])[0, 1]
print(f"an outcome of probability {np.sin(5e-7) ** 2:.1e} becomes {small}")
assert error > 1e-13 and direct < 1e-15 and small == 0
PYTHON
