"""URIs: schemes, paths, and no secret left in any of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.errors import UsageError
from tracekit.uri import clean, from_path, redact, scheme_of, to_path, with_scheme


def test_file_paths_are_taken_raw() -> None:
    assert clean("file:///d/a?b#c%d@e") == "file:///d/a?b#c%d@e"
    assert str(to_path("file:///d/a?b#c%d")) == "/d/a?b#c%d"
    assert from_path("/d/x", "direct") == "direct:///d/x"
    assert with_scheme("s3://b/k") == "s3://b/k"
    assert with_scheme("/a/b") == "file:///a/b"


@pytest.mark.parametrize(
    ("uri", "cleaned"),
    [
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET",
            "https://b.s3.amazonaws.com/k",
        ),
        ("https://acct.blob.core.windows.net/c/k?sv=1&sig=SECRET", "https://acct.blob.core.windows.net/c/k"),
        ("s3://key:SECRET@bucket/k", "s3://bucket/k"),
        ("az://c/k#SECRET", "az://c/k"),
    ],
)
def test_other_schemes_lose_query_fragment_and_user_info(uri: str, cleaned: str) -> None:
    assert clean(uri) == cleaned
    assert "SECRET" not in redact(f"GET {uri} failed: 403")


@pytest.mark.parametrize(
    "text",
    [
        "AccountName=a;AccountKey=SECRET==;EndpointSuffix=x",
        "Authorization: Bearer SECRET",
        'aws_secret_access_key = "SECRET"',
        "token=SECRET, retry",
        "x-amz-security-token: SECRET",
        '{"SecretAccessKey": "SECRET", "SessionToken": "SECRET"}',
        "client_secret=SECRET&sas_token=SECRET",
    ],
)
def test_pairs_of_names_and_secrets_are_redacted(text: str) -> None:
    assert "SECRET" not in redact(text)


@pytest.mark.parametrize("uri", ["s3://b/k", "file://host/x", "http://x/y"])
def test_what_names_no_local_file_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        to_path(uri)


@given(st.text(max_size=80))
def test_cleaning_and_redacting_take_any_text_and_settle(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert redact(redact(text)) == redact(text)
    assert scheme_of(text)
