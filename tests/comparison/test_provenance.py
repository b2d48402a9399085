"""Provenance names what a result depends on, and neither machine nor user."""

import platform
import socket

from lightning_qsgd.comparison.results import provenance


def test_what_it_names():
    found = provenance()
    assert found["versions"]["python"] == platform.python_version()
    assert {"torch", "lightning", "qiskit", "numpy"} <= found["versions"].keys()
    assert found["hardware"]["cores"] >= 1
    assert found["command"].startswith("lightning-qsgd")
    assert socket.gethostname() not in str(found["hardware"]).split()
