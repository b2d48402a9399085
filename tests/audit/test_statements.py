"""Tables and sentences carry the numbers that were found, and no more."""

import pytest

from lightning_qsgd.audit import statements
from lightning_qsgd.audit.findings import Truncation
from tests.audit.common import fake_findings, fake_shares


def column(table, k=1):
    return {row[0]: row[k] for row in table.rows}


def test_shares_of_all_of_qubits_and_under_uniform_angles():
    table = statements.shares_table(fake_findings(qubits=2, shares=fake_shares(rows=4000)))
    assert table.rows[:2] == [
        ("whole run", "90.00 %", "6.00 %", "3.00 %", "1.00 %", "0.5", "4,000"),
        (
            "95 % interval",
            *("89.50 to 90.50 %", "5.50 to 6.50 %", "2.50 to 3.50 %", "0.50 to 1.50 %"),
            *"\u2013\u2013",
        ),
    ]
    assert [row[0] for row in table.rows[2:]] == ["qubit 0", "qubit 1", "uniform angles"]
    assert table.rows[-1][1:4] == ("0.10 %", "20.00 %", "79.90 %")
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_what_is_not_known_has_no_row():
    table = statements.shares_table(fake_findings(qubits=1, intervals={}, uniform=None))
    assert list(column(table)) == ["whole run"]
    assert "interval" not in table.caption
    assert "uniform" not in table.caption.lower()


def test_small_shares_are_not_called_nothing():
    table = statements.shares_table(fake_findings(shares=fake_shares(0.99999, 4e-6, 6e-6, 0.0)))
    assert table.rows[0][1:5] == (">99.99 %", "<0.01 %", "<0.01 %", "0 %")


def test_each_stand_in_has_a_number_and_a_sentence():
    findings = fake_findings()
    table = statements.equivalents_table(findings)
    numbers = column(table)
    assert {name: numbers[name] for name in ("one number", "sine", "one per coordinate")} == {
        "one number": "62.00 %",
        "sine": "\u221235.00 %",
        "one per coordinate": "97.00 %",
    }
    assert column(table, 2)["sine"].startswith("0.123 \u00d7 sin(angle)")
    assert numbers["short series"] == "37 of 2,500 terms"
    assert numbers["learning-rate factor"] == "0.645"
    assert numbers["distance from the exact circuit"] == "<0.01 %"
    named = column(statements.equivalents_table(fake_findings(ran_on="IBMSampler on ibm_x")), 2)
    assert "as it ran (IBMSampler on ibm_x) from" in named["distance from the exact circuit"]
    assert findings.maps.keys() <= numbers.keys()
    assert all(said.endswith(".") for said in column(table, 2).values())


@pytest.mark.parametrize(
    ("truncation", "number", "said"),
    [
        (Truncation(0.01, None, 2500, 0.2, 4), "none of 2,500 terms", "leaves 20.00 %"),
        (Truncation(0.01, 4, 100, 0.0, 0), "4 of 100 terms", "Constants only, chosen"),
        (Truncation(0.005, 9, 100, 0.004, 1), "9 of 100 terms", "at most 0.5 % of the power"),
    ],
)
def test_short_series(truncation, number, said):
    table = statements.equivalents_table(fake_findings(truncation=truncation))
    assert column(table)["short series"] == number
    assert said in column(table, 2)["short series"]


def test_unknown_equivalents_are_left_out():
    findings = fake_findings(truncation=None, device_error=None, norm_ratio=None, effective=None)
    rows = column(statements.equivalents_table(findings))
    assert set(rows) == {*findings.maps, "learning-rate factor", "mean of s", "standard deviation of s"}


def test_a_learning_rate_factor_needs_adams_scale():
    rows = column(statements.equivalents_table(fake_findings(settings={"scale": "gradient"})))
    assert "learning-rate factor" not in rows


def test_the_subject_names_the_run():
    said = statements.subject(fake_findings())
    assert said.startswith("Audited: CircuitPerturbation(center=None, depth=2")
    assert "quantum weight \u03bb 0.5; scale adam" in said
    assert "32 recorded steps, from 0 to 775; 16,000 of 79,364 touched coordinates." in said
    assert "circuits:" not in said
    device = statements.subject(fake_findings(ran_on="FakeBackendSampler on FakeJakartaV2, 1,024 shots"))
    assert "; circuits: FakeBackendSampler on FakeJakartaV2, 1,024 shots; quantum weight" in device
    assert "one recorded step (0)" in statements.subject(fake_findings(steps=1, spans=1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": "adam"}, "multiplied by 1 + \u03bb s"),
        ({"scale": "gradient"}, "added to the weight's Adam step"),
        ({"scale": "gradient", "target": "gradient"}, "added to the gradient that Adam sees"),
    ],
)
def test_the_meaning_of_s_follows_the_settings(settings, said):
    assert said in statements.meaning(fake_findings(settings=settings))


def test_methods_say_what_was_run():
    assert "The audit itself ran no circuits." in statements.methods(fake_findings(circuits=0))
    ran = statements.methods(fake_findings(circuits=1, shots=1024, sampled=True))[-1]
    assert ran.startswith("The audit itself ran 1 circuit with 1,024 shots,")
    assert "estimates" in ran
    assert "random sample" not in " ".join(statements.methods(fake_findings(coordinates=(8, 8))))
