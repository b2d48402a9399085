"""What was found can be read again."""

import json
import math

import pytest

from lightning_qsgd.audit.findings import load_findings, save_findings
from tests.audit.common import fake_findings


def test_it_comes_back_as_it_was(tmp_path):
    one = fake_findings(settings={"quantum_weight": 0.25})
    other = fake_findings(truncation=None, uniform=None, device_error=None, norm_ratio=None, effective=None)
    save_findings({"one": one, "other": other}, tmp_path / "new" / "findings.json")
    for key, found in (("one", one), ("other", other)):
        assert load_findings(tmp_path / "new" / "findings.json")[key] == found


def test_what_is_not_finite_is_no_invalid_json(tmp_path):
    path = tmp_path / "findings.json"
    save_findings({"a": fake_findings(offset=math.nan, maps={"sine": math.inf})}, path)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    found = load_findings(path)["a"]
    assert math.isnan(found.offset)
    assert math.isnan(found.maps["sine"])


def test_what_is_not_there_is_said(tmp_path):
    path = tmp_path / "findings.json"
    with pytest.raises(FileNotFoundError, match="make one with"):
        load_findings(path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "findings": {"a": {"new": 1}}}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "findings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="run the audit again"):
        load_findings(path)
