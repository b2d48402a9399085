#!/usr/bin/env bash
# qiskit 2.6.2: ParameterExpression.sympify() returns NotImplemented, which is no error and no expression, where a number
# stands to the power of a parameter; the expression itself binds as it should. As a part of a sum it raises TypeError.
#
# Seen on 2026-11-29 with Python 3.11:
#   qiskit 2.6.2 bound at 3: 8.0 sympify: NotImplemented
#   of y**2: y**2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check qiskit==2.6.2 numpy==2.4.6 scipy==1.17.1 sympy==1.14.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from qiskit import __version__
from qiskit.circuit import Parameter

y = Parameter("y")
print("qiskit", __version__, "bound at 3:", (2**y).bind({y: 3}).numeric(), "sympify:", (2**y).sympify())
print("of y**2:", (y**2).sympify())
assert (2**y).sympify() is NotImplemented
PYTHON
