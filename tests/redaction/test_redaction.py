"""Text and JSON values are shown without the secrets in them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tracekit.redaction import redact, redact_value

SECRET = "s3cr3tXYZ"
TEXTS = [
    # options of a command, quoted in every way of a shell
    "train --api-key @", "train --token=@ x", "--password '@'", "--password '@ and @'", '--api-key="@ @"',
    "run --hf-token  @", "--client_secret\n'@'", "--password '@", '--password "a\\"@"', "--password=a,@",
    "--password a;@", "--token 'x'\"@\"", "--credentials @", "-password @", "curl -u bob:@ x", "--user=bob:@",
    # assignments and settings
    "AWS_SECRET_ACCESS_KEY=@ run", "DB_PASSWORD=a,@ run", "DB_PASS=@", "password2=@", "my_password = @",
    "AccountKey=@;EndpointSuffix=x", "env API_TOKEN='@' run", "password='a b @'", "password=\"it's @\"",
    "password:@", "token => '@'", "client_secret=@&sas_token=@", "AccountName=a;AccountKey=@==;EndpointSuffix=x",
    'credentials="@"', "token=['a @']",
    # Python and JSON, also inside a JSON text
    '{"secret_access_key": "@"}', "{'token': '@'}", "'password': u'@ @'", '{\\"token\\": \\"@\\"}',
    # headers, tags, URLs
    "Authorization: Bearer @", "curl -H 'Authorization: @'", "-H 'Authorization: Basic @'", "-H 'X-Api-Key: @'",
    '--header "x-api-key:@"', 'Authorization: Digest username="x", response="@"', "Authorization: AWS id:@",
    "Cookie: a=1; s=@", "x-amz-security-token: @", "x-amz-server-side-encryption-customer-key: @", "Bearer @",
    "<AWSAccessKeyId>@</AWSAccessKeyId>", "<Password type='x'>@</Password>", "fetch https://h/p?a=b&sig=@ now",
    "GET https://u:@@h/p", "https://h/p?token='@'",
    # a name in place of a value
    "token: --password @", "password= token=@", "Authorization: x-amz-security-token: @",
]  # fmt: skip
JOINTS = [" ", "; ", ", ", "\n", " && ", "&", "|"]


def planted(template: str) -> str:
    return template.replace("@", SECRET, 1) if "@@" in template else template.replace("@", SECRET)


@pytest.mark.parametrize("template", TEXTS)
def test_a_text_is_shown_without_its_secret(template: str) -> None:
    assert SECRET not in redact(planted(template))


def test_two_texts_side_by_side_are_shown_without_their_secrets() -> None:
    for first, joint, second in itertools.product(TEXTS, JOINTS, TEXTS):
        text = planted(first) + joint + planted(second)
        assert SECRET not in redact(text), text


@pytest.mark.parametrize(
    "secret",
    ["AKIAIOSFODNN7EXAMPLE", "ASIAABCDEFGHIJKLMNOP", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
     "hf_abcdefghijklmnopqrstuvwxyz", "ghp_0123456789abcdefghij0123456789abcdef"],
)  # fmt: skip
def test_keys_of_a_known_shape_are_masked_without_a_name(secret: str) -> None:
    assert redact(f"rejected {secret} at once") == "rejected *** at once"


@pytest.mark.parametrize(
    "text",
    ["no valid credentials: run az login", "secret santa", "tokens per second: 5", "s3://bucket/key@v2",
     "/data/a?b#c", "the signature does not match", "key: 7", "sort_key=uri", "max_tokens=512", "tokenizer=gpt2",
     "docker run -u 1000:1000 image", "first-pass: 3", "train.py --token", "region=us-east-1, bucket=b",
     "python train.py --lr 3 --data /d"],
)  # fmt: skip
def test_text_without_a_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("template", TEXTS)
def test_what_was_redacted_is_not_redacted_further(template: str) -> None:
    once = redact(planted(template))
    assert redact(once) == once


def test_what_stands_beside_a_secret_stays_readable() -> None:
    assert redact("train --token=x --epochs 3") == "train --token=*** --epochs 3"
    assert (
        redact("AccountName=a;AccountKey=b;EndpointSuffix=c")
        == "AccountName=a;AccountKey=***;EndpointSuffix=c"
    )
    assert redact("curl -H 'X-Api-Key: x' https://h/p") == "curl -H 'X-Api-Key: ***' https://h/p"


@pytest.mark.parametrize(
    "value",
    [{"token": SECRET}, {"token": [SECRET, {"a": SECRET}]}, {"API-KEY": {"value": SECRET}}, {"credentials": (SECRET,)},
     ["run", "--api-key", SECRET], ["-H", f"Authorization: Bearer {SECRET}"], {f"token={SECRET}": 1},
     [{"nested": [["--password", SECRET]]}]],
)  # fmt: skip
def test_a_value_is_stored_without_its_secret(value: Any) -> None:
    assert SECRET not in str(redact_value(value))


def test_values_that_are_not_secret_keep_their_types() -> None:
    options = {"batch": 3, "rate": 0.5, "on": True, "none": None, "token": "", "nested": [{"a": [1, "x"]}]}
    assert redact_value(options) == options


@pytest.mark.parametrize(
    "piece",
    ["_", "a-", "--token ", "'", '\\"', "password=a,", "authorization ", "<token ", "token:", "--token=",
     "cookie: ", "'cookie: ", "s3://a", "a://b@", "eyJ-"],
)  # fmt: skip
def test_long_texts_are_scanned_once(piece: str) -> None:
    """With time that grows as the square of the length, this would take minutes."""
    assert redact(piece * (400_000 // len(piece)))
