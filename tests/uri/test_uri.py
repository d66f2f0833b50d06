"""URIs: schemes, paths, and no secret left in any of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.errors import UsageError
from tracekit.redaction import redact
from tracekit.uri import clean, from_name, from_path, has_scheme, local_file, scheme_of, to_path, with_scheme


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


def test_a_container_before_its_account_is_kept_and_a_password_is_not() -> None:
    lake = "abfss://data-1@account.dfs.core.windows.net/a"
    assert clean(f"{lake}?sig=SECRET") == lake
    assert redact(f"read {lake}?sig=SECRET") == f"read {lake}"
    for userinfo in ("user:SECRET", "SECRET"):
        for host in ("account.dfs.core.windows.net", "example.net"):
            assert "SECRET" not in clean(f"abfss://{userinfo}@{host}/a")
            assert "SECRET" not in redact(f"read abfs://{userinfo}@{host}/a")


@pytest.mark.parametrize("uri", ["s3://b/k", "file://host/x", "http://x/y"])
def test_a_uri_that_is_not_a_local_file_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        to_path(uri)


def test_a_tilde_without_such_a_user_is_part_of_the_name() -> None:
    name = "~no-such-user-\u0153/x"
    assert str(local_file(name)) == name
    assert with_scheme(name).endswith(name)


@given(st.text(max_size=80))
def test_cleaning_and_redacting_accept_any_text_and_are_idempotent(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert redact(redact(text)) == redact(text)
    assert scheme_of(text)


@pytest.mark.parametrize(
    ("name", "base", "uri"),
    [
        ("/a", "s3://bucket/", "s3://bucket/a"),
        ("a", "s3://bucket", "s3://bucket/a"),
        ("//a//b", "s3://bucket/pre/", "s3://bucket/pre/a//b"),
        ("a/../b", "s3://bucket", "s3://bucket/a/../b"),
        ("v1", "block://", "block://v1"),
        ("/v1", "block://", "block://v1"),
        ("a", None, "file:///a"),
        ("a/b", "", "file:///a/b"),
        ("/a", None, "file:///a"),
        ("//a/./b//../c", None, "file:///a/c"),
        ("../../a", "file:///data", "file:///a"),
        ("../x", "direct:///data/sub/", "direct:///data/x"),
        ("a", "file://", "file:///a"),
        ("a", "/mnt/data", "file:///mnt/data/a"),
        ("C:\\data\\x", None, "file:///C:/data/x"),
        ("c:/data", "s3://b", "s3://b/c:/data"),
        ("C://data", None, "file:///C:/data"),
        ("\\\\host\\share\\x", None, "file:///host/share/x"),
        ("/a\\b", None, "file:///a\\b"),
        ("gs://b/k", "s3://bucket/", "gs://b/k"),
        ("a", "s3://key:SECRET@bucket?sig=SECRET", "s3://bucket/a"),
    ],
)
def test_a_name_and_a_base_make_one_uri(name: str, base: str | None, uri: str) -> None:
    assert from_name(name, base) == uri


@pytest.mark.parametrize(("name", "base"), [("", None), ("", "s3://b"), ("a", "bucket/"), ("a", "s3:bucket")])
def test_an_empty_name_and_a_base_without_scheme_are_refused(name: str, base: str | None) -> None:
    with pytest.raises(UsageError):
        from_name(name, base)


@given(st.text(min_size=1, max_size=40), st.sampled_from([None, "s3://b/", "file:///d", "block://"]))
def test_every_name_becomes_a_uri_that_stays_as_it_is(name: str, base: str | None) -> None:
    uri = from_name(name, base)
    assert has_scheme(uri)
    assert from_name(uri, "s3://other/") == uri
