"""Whole pages, compared with the files in ``golden/``.

``GOLDEN=write python -m pytest tests/report tests/comparison tests/audit`` rewrites them; read the difference before
you commit it.
"""

import difflib
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name, text):
    """Fails where ``text`` is not what the golden file of this name says."""
    path = FOLDER / f"{name}.md"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    said = path.read_text() if path.is_file() else ""
    different = "\n".join(
        difflib.unified_diff(said.splitlines(), text.splitlines(), path.name, "now", lineterm="", n=0)
    )
    assert said == text, f"{different}\n(GOLDEN=write rewrites it)"
