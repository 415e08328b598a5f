"""What looks like a secret is not written down; everything else is, as it is."""

import pytest
import yaml

from quail_lightning.run.masking import MASK, is_secret_name, masked, masked_command, masked_yaml

SECRET = "c0rrect-h0rse"
NAMES = [
    "token",
    "hub_token",
    "HF_TOKEN",
    "api_key",
    "apiKey",
    "API-KEY",
    "key",
    "secret_key",
    "AWS_SECRET_ACCESS_KEY",
    "aws_access_key_id",
    "password",
    "db_password",
    "passwd",
    "passphrase",
    "secret",
    "clientSecret",
    "Authorization",
    "credentials",
    "trainer.logger.init_args.api_key",
]
ORDINARY = [
    "tokenizer",
    "max_new_tokens",
    "pad_token",
    "eos_token",
    "knowmem_new_tokens",
    "keep",
    "monkey",
    "author",
]
VALUES = [
    "hf_abcdefghijklmnopqrstuvwxyz012345",
    "sk-proj-abcdefgh12345678",
    "ghp_abcdefgh1234567890",
    "github_pat_11ABCDEFG0abcdefgh",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdef",
    "glpat-abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_hides_any_value(name):
    assert masked({"logger": {name: SECRET}}) == {"logger": {name: MASK}}
    assert masked({name: {"user": "me", "levels": [SECRET, 12345]}}) == {
        name: {"user": MASK, "levels": [MASK, MASK]}
    }
    assert SECRET not in " ".join(masked_command(["fit", f"--{name}={SECRET}", f"--{name}", SECRET, "--x=1"]))
    assert SECRET not in masked_command([f"--logger={{{name}: {SECRET}, x: 1}}"])[0]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_hide_nothing(name):
    assert not is_secret_name(name)
    assert masked({name: "value"}) == {name: "value"}


@pytest.mark.parametrize("value", VALUES)
def test_the_look_of_a_value_hides_it_whatever_its_name(value):
    for written in (
        masked({"plain": f"prefix {value}"}),
        masked(["a", (value,)]),
        masked_command(["fit", f"--data.corpus={value}", value]),
    ):
        assert value not in repr(written)
        assert MASK in repr(written)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@w@host:8080/x", f"https://{MASK}@host:8080/x"),
        ("https://host/x?token=abc&page=2", f"https://host/x?token={MASK}&page=2"),
        ("Bearer abc.def", f"Bearer {MASK}"),
        ('{"password": "two words", "x": 1}', f'{{"password": {MASK}, "x": 1}}'),
    ],
)
def test_secrets_inside_a_text_are_hidden_and_the_rest_stays(text, shown):
    assert masked({"value": text}) == {"value": shown}


def test_what_is_no_secret_stays_and_masking_twice_is_masking_once():
    options = {
        "model": {"target": "meta-llama/Llama-2-7b-hf", "learning_rate": 1e-5, "start": None},
        "data": {"forget": ["raw/forget"], "token": None, "key": False},
        "trainer": {"logger": {"save_dir": "logs", "name": "hf_checkpoints/risk-analysis"}},
    }
    assert masked(options) == options
    secret = options | {"hub": {"token": SECRET, "url": "http://a:b@c"}}
    assert masked(masked(secret)) == masked(secret) != secret


def test_a_config_without_secrets_is_written_as_it_was():
    text = "model:\n  target: x   # a comment\n"
    assert masked_yaml(text) == text
    assert yaml.safe_load(masked_yaml(f"b: 1\na:\n  token: {SECRET}\n")) == {"b": 1, "a": {"token": MASK}}
