"""What is taken out of a record, and what stays in it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.provenance.secrets import text_without_secrets, without_secrets

SECRET = "Tr0ub4dor-and-3"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@example.org/x.git",
        f"ssh://{SECRET}@example.org",
        f"postgresql+psycopg://u:{SECRET}@db/x",
        f'API_KEY = "{SECRET}"',
        f"+    password={SECRET}",
        f'{{"client_secret": "{SECRET}"}}',
        f"os.environ['HF_TOKEN'] = '{SECRET}'",
        f"export AWS_SECRET_ACCESS_KEY={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"--wandb-api-key={SECRET}",
        f"passwd: {SECRET}",
    ],
)
def test_a_secret_goes_whatever_names_it(text: str) -> None:
    assert SECRET not in text_without_secrets(text)


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 9,
        "glpat-" + "a1B2" * 5,
        "hf_" + "a1B2" * 8,
        "sk-" + "a1B2" * 8,
        "AKIA" + "A1B2" * 4,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def",
    ],
)
def test_the_form_of_a_token_is_enough(token: str) -> None:
    assert text_without_secrets(f"login {token} now") == "login *** now"


def test_a_private_key_goes() -> None:
    body = "MIIEvQIBADANBg\nkqhkiG9w0BAQ"
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nafter"
    assert body not in text_without_secrets(text)
    assert text_without_secrets(text).endswith("after")


@pytest.mark.parametrize(
    "text",
    ["max_tokens=512", "tokenizer = load('x')", "git@github.com:me/x.git", "lr: 0.1", "password", "a/b@c", "seed=42"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert text_without_secrets(text) == text


def test_requests_keep_their_form() -> None:
    body: dict[str, Any] = {
        "command": ["python", "train.py", "--api-key", SECRET, "--lr", "0.1", f"--token={SECRET}"],
        "env": {"A": "1", "B": SECRET},
        "wandb_token": SECRET,
        "nested": [{"password": SECRET, "n": 1.5}],
        "num_epochs": 3,
        "pretrained": None,
    }
    assert without_secrets(body) == {
        "command": ["python", "train.py", "--api-key", "***", "--lr", "0.1", "--token=***"],
        "env": {"A": "***", "B": "***"},
        "wandb_token": "***",
        "nested": [{"password": "***", "n": 1.5}],
        "num_epochs": 3,
        "pretrained": None,
    }


@given(text=st.text(max_size=300))
def test_twice_is_as_good_as_once(text: str) -> None:
    once = text_without_secrets(text)
    assert text_without_secrets(once) == once


@pytest.mark.parametrize("piece", ["a", "token", "-", "://", "password=", "-----BEGIN PRIVATE KEY-----", "eyJ"])
def test_a_megabyte_of_anything_takes_no_more_than_a_moment(piece: str) -> None:
    text = piece * (1_048_576 // len(piece))
    began = time.thread_time()
    text_without_secrets(text)
    assert time.thread_time() - began < 5
