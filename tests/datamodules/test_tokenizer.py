import sys

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import AutoTokenizer

from lightning_qsgd.datamodules import load_tokenizer
from lightning_qsgd.datamodules.tokenizer import explain_hub_error, padding_token
from tests.tiny_tokenizer import tiny_tokenizer


def test_load(tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer(tmp_path))
    assert tokenizer.decode(tokenizer("There are 12").input_ids) == "<bos>There are 12"


def test_padding_token(tmp_path):
    def chosen(**arguments):
        tokenizer = load_tokenizer(tiny_tokenizer(tmp_path, **arguments))
        return tokenizer.convert_ids_to_tokens(padding_token(tokenizer))

    assert chosen() == "<pad>"
    assert chosen(pad_token=None) == "<eos>"
    assert chosen(pad_token=None, extra=["<|finetune_right_pad_id|>"]) == "<|finetune_right_pad_id|>"


@pytest.mark.parametrize("name", ["/no/such/folder", "a b"])
def test_no_folder_and_no_name(name):
    with pytest.raises(
        ValueError, match=f"Invalid pretrained: '{name}': there is no such folder, and no model of that"
    ):
        load_tokenizer(name)


def test_offline():
    with pytest.raises(
        ValueError, match=r"it was not downloaded before, and HF_HUB_OFFLINE is set; .* `hf download no/"
    ):
        load_tokenizer("no/model")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"transformers cannot read it: .*; it must be a folder with config.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (GatedRepoError, r"accept its licence on https://huggingface.co/some/model, then log in with `hf auth login`"),
        (RepositoryNotFoundError, "no model of that name on huggingface.co"),
    ],
)
def test_answers_of_the_hub(monkeypatch, kind, advice):
    """These take a network, so they are raised here, as transformers does."""
    secret = "hf_" + "s" * 20

    def refuse(*_, **__):
        cause = kind.__new__(kind, f"401 {secret}")
        raise OSError(f"no access with {secret}") from cause

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(ValueError, match=advice) as caught:
        load_tokenizer("some/model")
    assert secret not in str(caught.value)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install transformers"):
        load_tokenizer("a")


def test_a_package_that_a_tokenizer_needs():
    error = explain_hub_error("some/model", ImportError("it requires sentencepiece\nmore"))
    assert str(error).endswith("it needs a package that is not installed: it requires sentencepiece")
