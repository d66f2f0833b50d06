"""What the proxy makes of a request, and whose signature it accepts; no server is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from multidict import CIMultiDict

from tracekit.capture.proxy.requests import Asked, deleted_keys, failed_keys, is_error, understand
from tracekit.capture.proxy.signing import Resigner, claim_of, without_signature


@pytest.mark.parametrize(
    ("method", "target", "headers", "expected"),
    [
        ("GET", "/", {}, Asked("list", "s3://")),
        ("GET", "/b?list-type=2&prefix=a%20b%2F&x-id=ListObjectsV2", {}, Asked("list", "s3://b/a b/")),
        ("GET", "/b/", {}, Asked("list", "s3://b/")),
        ("GET", "/b?uploads", {}, Asked("list", "s3://b/")),
        ("GET", "/b?location", {}, Asked("stat", "s3://b/")),
        ("GET", "/b?versioning", {}, Asked("stat", "s3://b/")),
        ("HEAD", "/b", {}, Asked("stat", "s3://b/")),
        ("PUT", "/b", {}, Asked(None, "s3://b/")),
        ("POST", "/b?delete", {}, Asked("delete", "s3://b/", many=True)),
        ("HEAD", "/b/k", {}, Asked("stat", "s3://b/k")),
        ("GET", "/b/k?x-id=GetObject", {}, Asked("get", "s3://b/k")),
        ("GET", "/b/k%3Fq%23%25", {}, Asked("get", "s3://b/k%3Fq%23%25")),
        ("GET", "/b//k//", {}, Asked("get", "s3://b//k//")),
        ("GET", "/b/k?versionId=1", {"range": "bytes=5-9"}, Asked("read", "s3://b/k", 5, 5)),
        ("GET", "/b/k", {"Range": "bytes=5-"}, Asked("read", "s3://b/k", 5, None)),
        ("GET", "/b/k?partNumber=2", {}, Asked("read", "s3://b/k")),
        ("GET", "/b/k?X-Amz-Signature=0&X-Amz-Date=1&response-content-type=x", {}, Asked("get", "s3://b/k")),
        ("GET", "/b/k?tagging", {}, Asked("stat", "s3://b/k")),
        ("GET", "/b/k?attributes", {}, Asked("stat", "s3://b/k")),
        ("GET", "/b/k?uploadId=u", {}, Asked("list", "s3://b/k")),
        ("PUT", "/b/k", {"Content-Length": "7"}, Asked("put", "s3://b/k", length=7)),
        ("PUT", "/b/k", {"Content-Length": "99", "X-Amz-Decoded-Content-Length": "7"}, Asked("put", "s3://b/k", length=7)),
        ("PUT", "/b/k?partNumber=3&uploadId=u", {"Content-Length": "7"}, Asked("part", "s3://b/k", length=7, part=3, upload="u")),
        (
            "PUT", "/b/k?partNumber=3&uploadId=u",
            {"x-amz-copy-source": "/b/o", "x-amz-copy-source-range": "bytes=10-19", "Content-Length": "0"},
            Asked("copy", "s3://b/o", offset=10, length=10, to_uri="s3://b/k", part=3, upload="u"),
        ),
        ("PUT", "/b/k", {"x-amz-copy-source": "c/o%20o?versionId=2"}, Asked("copy", "s3://c/o o", to_uri="s3://b/k")),
        ("PUT", "/b/k?acl", {}, Asked(None, "s3://b/k")),
        ("POST", "/b/k?uploads", {}, Asked(None, "s3://b/k")),
        ("POST", "/b/k?uploadId=u", {}, Asked("complete", "s3://b/k", upload="u")),
        ("DELETE", "/b/k?uploadId=u", {}, Asked("abort", "s3://b/k", upload="u")),
        ("DELETE", "/b/k?versionId=1", {}, Asked("delete", "s3://b/k")),
        ("DELETE", "/b/k?tagging", {}, Asked(None, "s3://b/k")),
    ],
)  # fmt: skip
def test_a_request_is_understood(method: str, target: str, headers: dict[str, str], expected: Asked) -> None:
    assert understand(method, target, CIMultiDict(headers)) == expected


def test_keys_in_the_bodies_of_deletes_are_found() -> None:
    body = b"<Delete><Object><Key>a&amp;b</Key></Object><Object><Key>c d</Key></Object></Delete>"
    answer = b"<DeleteResult><Deleted><Key>c d</Key></Deleted><Error><Key>a&amp;b</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    assert deleted_keys(body) == ["a&b", "c d"]
    assert failed_keys(answer) == {"a&b": "AccessDenied"}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'<?xml version="1.0"?>\n<Error><Code>InternalError</Code></Error>', True),
        (b"   <Error/>", True),
        (b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>", False),
        (b"", False),
    ],
)
def test_an_error_with_status_200_is_one(body: bytes, error: bool) -> None:
    assert is_error(body) is error


OURS = SimpleNamespace(access_key="AKIDOURS", secret_key="our-secret", token=None)


def signed(
    url: str, *, secret: str = "our-secret", in_query: bool = False, method: str = "GET"
) -> tuple[str, CIMultiDict[str]]:
    """The target and headers of a request that botocore signed for the proxy."""
    request = AWSRequest(
        method, url, headers={"X-Amz-Meta-Note": "two  words"}, data=b"body" if method == "PUT" else None
    )
    credentials = Credentials("AKIDOURS", secret)
    signer: Any = (
        S3SigV4QueryAuth(credentials, "s3", "eu-north-1", expires=60)
        if in_query
        else S3SigV4Auth(credentials, "s3", "eu-north-1")
    )
    request.context["payload_signing_enabled"] = True
    signer.add_auth(request)
    prepared = request.prepare()
    target = prepared.url.removeprefix("http://127.0.0.1:9000")
    return target, CIMultiDict([("Host", "127.0.0.1:9000"), *prepared.headers.items()])


URL = "http://127.0.0.1:9000/b/a%20b/%C3%BC%2B?list-type=2&prefix=x%20y%2F&empty="


@pytest.mark.parametrize("in_query", [False, True])
def test_a_signature_of_the_same_credentials_is_accepted(in_query: bool) -> None:
    target, headers = signed(URL, in_query=in_query)
    claim = claim_of(target, headers)
    assert claim is not None
    assert claim.region == "eu-north-1"
    assert Resigner(lambda: OURS).accepts(claim, "GET", target, headers)


@pytest.mark.parametrize("in_query", [False, True])
def test_another_secret_target_method_or_date_is_not(in_query: bool) -> None:
    resigner = Resigner(lambda: OURS)
    target, headers = signed(URL, secret="guessed", in_query=in_query)
    claim = claim_of(target, headers)
    assert claim is not None
    assert not resigner.accepts(claim, "GET", target, headers)
    target, headers = signed(URL, in_query=in_query)
    claim = claim_of(target, headers)
    assert claim is not None
    assert not resigner.accepts(claim, "GET", target.replace("/b/", "/c/", 1), headers)
    assert not resigner.accepts(claim, "DELETE", target, headers)
    stranger = Resigner(lambda: SimpleNamespace(access_key="AKIDOTHER", secret_key="our-secret", token=None))
    assert not stranger.accepts(claim, "GET", target, headers)


def test_an_old_signature_is_not_accepted() -> None:
    target, headers = signed(URL)
    headers["X-Amz-Date"] = "20200101T000000Z"
    headers["Authorization"] = headers["Authorization"].replace(
        headers["Authorization"].split("/")[1], "20200101"
    )
    claim = claim_of(target, headers)
    assert claim is not None
    assert not Resigner(lambda: OURS).accepts(claim, "GET", target, headers)


@pytest.mark.parametrize("in_query", [False, True])
def test_what_is_signed_again_is_right_for_the_store(in_query: bool) -> None:
    """The store's check is the same as the proxy's: it is applied to what the proxy sends."""
    resigner = Resigner(lambda: OURS)
    target, headers = signed(URL, in_query=in_query)
    claim = claim_of(target, headers)
    assert claim is not None
    bare = without_signature(target)
    assert "ignature" not in bare
    sent = CIMultiDict(headers)
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256"):
        sent.popall(name, None)
    sent.update(resigner.signed(claim, "GET", "s3.eu-north-1.amazonaws.com", bare, sent, claim.payload))
    sent["Host"] = "s3.eu-north-1.amazonaws.com"
    again = claim_of(bare, sent)
    assert again is not None
    assert resigner.accepts(again, "GET", bare, sent)
    sent["Host"] = "127.0.0.1:9000"
    assert not resigner.accepts(again, "GET", bare, sent)


def test_credentials_that_were_renewed_are_still_known() -> None:
    now = [OURS]
    resigner = Resigner(lambda: now[0])
    target, headers = signed(URL)
    claim = claim_of(target, headers)
    assert claim is not None
    assert resigner.accepts(claim, "GET", target, headers)
    now[0] = SimpleNamespace(access_key="AKIDNEXT", secret_key="next-secret", token="t")
    assert resigner.accepts(claim, "GET", target, headers)


def test_an_unsigned_request_has_no_claim() -> None:
    assert claim_of("/b/k?list-type=2", CIMultiDict()) is None
    assert claim_of("/b/k", CIMultiDict({"Authorization": "AWS AKID:old"})) is None
