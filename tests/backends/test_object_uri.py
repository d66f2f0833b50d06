"""URIs of objects: every key is kept, no secret is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit.backends.objects.uri import join, split
from tracekit.errors import UsageError
from tracekit.uri import clean

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(KEYS)
def test_every_key_survives_the_way_into_a_uri_and_back(key: str) -> None:
    uri = join("s3", "bucket", key)
    assert split(uri) == ("bucket", key)
    assert clean(uri) == uri


def test_only_what_must_be_is_encoded() -> None:
    assert join("az", "c", "a b/ü=%?#&+\n") == "az://c/a b/ü=%25%3F%23&+%0A"
    assert split("s3://b") == split("s3://b/") == ("b", "")


@pytest.mark.parametrize("uri", ["s3://", "s3:///k", "s3://b/k?sig=1", "s3://b/k#f"])
def test_a_uri_that_names_no_object_is_refused_and_shown_without_its_query(uri: str) -> None:
    with pytest.raises(UsageError) as raised:
        split(uri)
    assert "sig" not in str(raised.value)
