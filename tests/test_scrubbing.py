import pytest

from lightning_qsgd.scrubbing import scrub, scrubbed, secrets_of_environment


@pytest.mark.parametrize(
    "name", ["QISKIT_IBM_TOKEN", "hf_token", "WANDB_API_KEY", "DB_PASSWORD", "AWS_SECRET_X", "DB_PWD"]
)
def test_secrets_of_the_environment_are_cut_out(monkeypatch, name):
    monkeypatch.setenv(name, "0123456789")
    assert "0123456789" in secrets_of_environment()
    assert scrubbed("key 0123456789, twice 0123456789") == "key ***, twice ***"


def test_short_values_and_other_names_are_no_secrets(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "yes")
    monkeypatch.setenv("MY_HOME", "/home/somebody")
    monkeypatch.setenv("PWD", "/home/somebody")
    assert scrubbed("yes, /home/somebody") == "yes, /home/somebody"


def test_headers_are_cut_out():
    assert scrubbed("Authorization: Bearer abc.def; apikey=xyz&x=1") == "Authorization: Bearer *** apikey=***&x=1"


def test_errors_are_cleaned_with_all_that_led_to_them():
    error = ValueError("then secret-one", 3)
    error.add_note("note secret-one")
    error.detail = "secret-one"
    error.__context__ = KeyError("first secret-one")
    scrub(error, ["secret-one"])
    assert error.args == ("then ***", 3)
    assert error.__notes__ == ["note ***"]
    assert error.detail == "***"
    assert error.__context__.args == ("first ***",)
