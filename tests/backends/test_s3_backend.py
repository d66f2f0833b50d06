"""S3 only: endpoints, credentials from the AWS chain, addressing styles, errors without secrets."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers

from tracekit.backends.objects import s3
from tracekit.backends.objects.aws import resolve
from tracekit.backends.objects.store import ObjectStoreBackend
from tracekit.backends.objects.uri import split
from tracekit.backends.registry import backend_for
from tracekit.errors import BackendError, TracekitError, UsageError
from tracekit.store_options import CLIENTS

SECRET = "sEnTiNeL/SecretKey+Never+Shown"
TOKEN = "sEnTiNeL-session-token"
WITH_EACH_CLIENT = pytest.mark.parametrize("client", CLIENTS["s3"])


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """A moto that checks credentials; bucket `guarded` holds the object `k`."""
    with servers.moto_server(tmp_path_factory.mktemp("strict") / "log") as server:
        server.make_bucket("guarded")
        server.put("guarded", "k", b"0123456789")
        server.request("POST", "/moto-api/reset-auth", b"0")
        yield server


def read(backend: ObjectStoreBackend, uri: str) -> bytes:
    return bytes(backend.open(uri).get()[0])


def endpoint_of(**options: str) -> str | None:
    given = {"endpoint": None, "region": None, "profile": None, **options}
    return resolve(anonymous=False, addressing_style="auto", **given).endpoint


def test_endpoints_follow_the_sdk_rules(clean_env: pytest.MonkeyPatch) -> None:
    assert endpoint_of() is None
    config = Path(os.environ["AWS_CONFIG_FILE"])
    config.write_text(
        "[default]\nendpoint_url=http://default\n[profile p]\nservices=mine\nendpoint_url=http://general\n"
        "[services mine]\ns3 =\n  endpoint_url = http://service\n"
    )
    assert endpoint_of() == "http://default"
    assert endpoint_of(profile="p") == "http://service"
    clean_env.setenv("AWS_ENDPOINT_URL", "http://all/")
    assert endpoint_of(profile="p") == "http://all"
    clean_env.setenv("AWS_ENDPOINT_URL_S3", "http://only-s3")
    assert endpoint_of() == "http://only-s3"
    assert endpoint_of(endpoint="https://given:1") == "https://given:1"
    clean_env.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert endpoint_of() is None
    assert endpoint_of(endpoint="https://given:1") == "https://given:1"
    with pytest.raises(UsageError, match="is not valid"):
        endpoint_of(endpoint="localhost:9000")


def test_buckets_are_host_names_at_aws_and_paths_elsewhere_by_default(clean_env: pytest.MonkeyPatch) -> None:
    def style(bucket: str, endpoint: str | None, addressing: str) -> tuple[bool, str | None]:
        return resolve(endpoint, None, None, False, addressing).style(bucket)

    assert style("b", None, "auto") == (True, None)
    assert style("b.dotted", None, "auto") == (False, None)
    assert style("b", None, "path") == (False, None)
    assert style("b", "http://h:1", "auto") == (False, "http://h:1")
    assert style("b", "http://h:1", "virtual") == (True, "http://b.h:1")
    Path(os.environ["AWS_CONFIG_FILE"]).write_text("[default]\ns3 =\n  addressing_style = path\n")
    assert style("b", None, "auto") == (False, None)


@WITH_EACH_CLIENT
def test_virtual_hosted_style_reaches_the_bucket(
    s3_bucket: str, moto: servers.S3Server, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    """moto is the HTTP proxy, so that the host name of the bucket is not resolved."""
    moto.put(s3_bucket, "k", b"by host name")
    clean_env.setenv("HTTP_PROXY", moto.endpoint)
    clean_env.setenv("http_proxy", moto.endpoint)
    clean_env.delenv("NO_PROXY", raising=False)
    clean_env.delenv("no_proxy", raising=False)
    virtual = s3.backend(endpoint="http://s3.amazonaws.com", addressing_style="virtual", client=client)
    if client == "obstore":
        with pytest.raises(UsageError, match="does not take proxy="):
            read(virtual, f"s3://{s3_bucket}/k")
        return
    assert read(virtual, f"s3://{s3_bucket}/k") == b"by host name"
    virtual.close()


@WITH_EACH_CLIENT
def test_an_option_takes_precedence_over_the_environment(
    s3_bucket: str, moto: servers.S3Server, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    moto.put(s3_bucket, "k", b"here")
    clean_env.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    clean_env.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    backend = s3.backend(endpoint=moto.endpoint, client=client)
    assert read(backend, f"s3://{s3_bucket}/k") == b"here"
    backend.close()


@WITH_EACH_CLIENT
def test_a_profile_is_used_and_not_mixed_with_the_environment(
    s3_bucket: str, moto: servers.S3Server, clean_env: pytest.MonkeyPatch, tmp_path: Path, client: str
) -> None:
    """The keys of the profile come from a process, as with SSO helpers: only the chain of the SDK runs it."""
    moto.put(s3_bucket, "k", b"x")
    answer = {
        "Version": 1,
        "AccessKeyId": "from-process",
        "SecretAccessKey": SECRET,
        "SessionToken": TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    }
    (tmp_path / "answer").write_text(json.dumps(answer))
    (tmp_path / "helper.py").write_text(
        f"import pathlib; here = pathlib.Path({str(tmp_path)!r}); (here / 'ran').touch(); "
        "print((here / 'answer').read_text())"
    )
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f"[profile p]\nregion = eu-west-1\ncredential_process = {sys.executable} {tmp_path}/helper.py\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        clean_env.delenv(name)
    clean_env.setenv("AWS_SKIP_SIGNATURE", "true")  # obstore would obey it; botocore knows it not
    backend = s3.backend(aws_profile="p", client=client)
    assert read(backend, f"s3://{s3_bucket}/k") == b"x"
    assert (tmp_path / "ran").exists()
    backend.close()


BROKEN_CHAINS = {
    "credential_process = {python} {home}/noise": "did not print JSON",
    "credential_process = {python} {home}/fails": "first line",
    "credential_process = /no/such/helper": "No such file",
    'credential_process = "unclosed': "No closing quotation",
    "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = nobody": "nobody",
    "role_arn = arn:aws:iam::123456789012:role/r\nweb_identity_token_file = {home}/none": "No such file",
}


@WITH_EACH_CLIENT
@pytest.mark.parametrize("chain", BROKEN_CHAINS)
def test_credentials_that_cannot_be_obtained_are_reported_in_one_line(
    clean_env: pytest.MonkeyPatch, moto: servers.S3Server, tmp_path: Path, client: str, chain: str
) -> None:
    (tmp_path / "noise").write_text(f"print('{SECRET}')")
    (tmp_path / "fails").write_text(f"raise SystemExit('first line\\nSecretAccessKey: {SECRET}')")
    settings = chain.format(python=sys.executable, home=tmp_path)
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(f"[profile p]\n{settings}\n")
    backend = s3.backend(aws_profile="p", client=client, endpoint=moto.endpoint)
    with pytest.raises(BackendError, match=BROKEN_CHAINS[chain]) as raised:
        backend.stat("s3://b/k")
    assert raised.value.error_class == "permission"
    assert "\n" not in str(raised.value) and SECRET not in str(raised.value)
    backend.close()


@WITH_EACH_CLIENT
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_a_credential_with_a_newline_is_reported_in_one_line(
    s3_bucket: str, clean_env: pytest.MonkeyPatch, client: str, name: str
) -> None:
    """Secrets that are mounted into containers end in a line break: client libraries crash on it."""
    clean_env.setenv(name, f"{TOKEN}\n")
    backend = s3.backend(client=client)
    for call in (
        lambda: backend.stat(f"s3://{s3_bucket}/k"),
        lambda: asyncio.run(backend.open(f"s3://{s3_bucket}/k").aread_into(0, backend.allocate(4))),
    ):
        with pytest.raises(BackendError, match="line break") as raised:
            call()
        assert raised.value.error_class == "permission"
        assert "\n" not in str(raised.value) and TOKEN not in str(raised.value)
    backend.close()


def test_an_unknown_profile_is_reported_in_one_line(clean_env: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="profile"):
        s3.backend(aws_profile="nobody")


@WITH_EACH_CLIENT
def test_missing_credentials_are_reported_in_one_line(
    moto: servers.S3Server, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    backend = s3.backend(endpoint=moto.endpoint, client=client)
    with pytest.raises(BackendError, match="credentials") as raised:
        backend.stat("s3://b/k")
    assert raised.value.error_class == "permission"
    assert "\n" not in str(raised.value)
    backend.close()


@WITH_EACH_CLIENT
def test_wrong_credentials_are_reported_in_one_line_without_the_secret(
    strict: servers.S3Server, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    for name, value in strict.env.items():
        clean_env.setenv(name, value)
    clean_env.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    clean_env.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    clean_env.setenv("AWS_SESSION_TOKEN", TOKEN)
    backend = s3.backend(client=client)
    for call in (
        lambda: backend.preflight("s3://guarded/k"),
        lambda: list(backend.list("s3://guarded")),
        lambda: read(backend, "s3://guarded/k"),
        lambda: backend.put("s3://guarded/new", b"x"),
    ):
        with pytest.raises(BackendError, match="access denied") as raised:
            call()
        assert raised.value.error_class == "permission"
        text = str(raised.value)
        assert "\n" not in text and "AWS_PROFILE" in text
        assert SECRET not in text and TOKEN not in text and "Signature=" not in text
    backend.close()


@WITH_EACH_CLIENT
def test_anonymous_requests_read_public_objects_only(
    s3_bucket: str, moto: servers.S3Server, clean_env: pytest.MonkeyPatch, client: str
) -> None:
    moto.put(s3_bucket, "private", b"p")
    moto.put(s3_bucket, "public", b"open to all")
    moto.request("PUT", f"/{s3_bucket}/public?acl", None, {"x-amz-acl": "public-read"})
    backend = s3.backend(anonymous=True, client=client)
    assert read(backend, f"s3://{s3_bucket}/public") == b"open to all"
    with pytest.raises(BackendError) as raised:
        read(backend, f"s3://{s3_bucket}/private")
    assert raised.value.error_class == "permission"
    backend.close()


def test_presigned_urls_leave_no_signature_in_any_error(s3_env: servers.S3Server) -> None:
    signature = "X-Amz-Signature=5e9f7d0c1b2a&X-Amz-Credential=AKIA%2F2024&X-Amz-Security-Token=tok"
    for uri in (f"s3://b/k?{signature}", f"https://b.s3.amazonaws.com/k?{signature}"):
        with pytest.raises(TracekitError) as raised:
            backend_for(uri).stat(uri)
        assert "5e9f7d0c1b2a" not in str(raised.value) and "AKIA" not in str(raised.value)


@pytest.mark.parametrize(
    "endpoint",
    [f"http://user:{SECRET}@127.0.0.1:1", f"http://h:1/?sig={SECRET}", f"http://h:1/#{SECRET}", "http://h:x"],
)
def test_an_endpoint_with_a_secret_or_a_bad_port_is_refused_and_not_shown(
    clean_env: pytest.MonkeyPatch, endpoint: str
) -> None:
    for scheme in ("s3://b/k", "az://c/k"):
        with pytest.raises(UsageError, match="endpoint") as raised:
            backend_for(scheme, endpoint=endpoint, anonymous=True)
        assert SECRET not in str(raised.value)


@WITH_EACH_CLIENT
@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_reported_as_a_wrong_region(s3_env: servers.S3Server, client: str, status: int) -> None:
    with servers.fault_proxy(s3_env.endpoint) as proxy:
        proxy.always[""] = servers.Fault(status, "<Error><Code>PermanentRedirect</Code></Error>")
        backend = s3.backend(endpoint=proxy.endpoint, client=client)
        with pytest.raises(BackendError, match="another region") as raised:
            read(backend, "s3://b/k")
        assert raised.value.error_class == "wrong_region"
        assert "region=" in str(raised.value)
        backend.close()


@WITH_EACH_CLIENT
def test_the_environment_of_a_client_library_does_not_choose_the_host(
    s3_env: servers.S3Server, s3_bucket: str, client: str, clean_env: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    for name in ("AWS_ENDPOINT", "AWS_S3_ENDPOINT", "AWS_ALLOW_HTTP", "AWS_S3_EXPRESS"):
        clean_env.setenv(name, "true" if name.endswith(("HTTP", "EXPRESS")) else nowhere)
    backend = s3.backend(client=client)
    backend.put(f"s3://{s3_bucket}/k", b"here")
    assert read(backend, f"s3://{s3_bucket}/k") == b"here"
    backend.close()


@WITH_EACH_CLIENT
@pytest.mark.parametrize(
    "name",
    ["CONDITIONAL_PUT", "S3_EXPRESS", "ENDPOINT", "PROXY_URL", "SERVER_SIDE_ENCRYPTION", "TIMEOUT", "ALLOW_HTTP",
     "DEFAULT_HEADERS", "CHECKSUM_ALGORITHM", "VIRTUAL_HOSTED_STYLE_REQUEST", "SKIP_SIGNATURE", "HTTP2_ONLY"],
)  # fmt: skip
def test_a_variable_that_is_not_part_of_the_contract_changes_nothing(
    s3_env: servers.S3Server, s3_bucket: str, clean_env: pytest.MonkeyPatch, client: str, name: str
) -> None:
    for value in ("oops", "true", "http://127.0.0.1:1"):
        clean_env.setenv(f"AWS_{name}", value)
        backend = s3.backend(client=client, retries=0)
        backend.put(f"s3://{s3_bucket}/k", b"data", overwrite=True)
        assert read(backend, f"s3://{s3_bucket}/k") == b"data"
        backend.close()
        assert os.environ[f"AWS_{name}"] == value


@WITH_EACH_CLIENT
def test_an_object_beside_the_marker_of_its_folder_is_listed_once(
    s3_env: servers.S3Server, s3_bucket: str, moto: servers.S3Server, client: str
) -> None:
    for key, body in {"d": b"data", "d-1": b"x", "d/": b"", "e": b"y"}.items():
        moto.put(s3_bucket, key, body)
    backend = s3.backend(client=client)
    found = [(info.uri, info.size) for info in backend.list(f"s3://{s3_bucket}")]
    assert found == [(f"s3://{s3_bucket}/{key}", size) for key, size in (("d", 4), ("d-1", 1), ("e", 1))]
    backend.close()


@WITH_EACH_CLIENT
def test_every_key_is_listed_once_and_can_be_read(
    s3_bucket: str, moto: servers.S3Server, client: str
) -> None:
    keys = ["/a", "a", "a//b", "b\tc", "d", "d/../e", "f/./g", "h//", "i\x01", "~"]
    for key in keys:
        moto.put(s3_bucket, key, key.encode())
    moto.put(s3_bucket, "d/", b"")
    backend = s3.backend(client=client)
    found = [info.uri for info in backend.list(f"s3://{s3_bucket}")]
    assert [split(uri).key for uri in found] == sorted(keys)
    for uri in found:
        assert read(backend, uri) == split(uri).key.encode()
    backend.close()


@WITH_EACH_CLIENT
def test_empty_folder_markers_are_not_listed_as_objects(
    s3_bucket: str, moto: servers.S3Server, client: str
) -> None:
    for key in ("dir/", "dir/a", "dir/b", "dir2", "lone/", "void", "zz/"):
        moto.put(s3_bucket, key, b"x" if key[-1] in "ab2" else b"")
    backend = s3.backend(client=client)
    assert [info.uri.rpartition("/")[2] for info in backend.list(f"s3://{s3_bucket}")] == [
        "a",
        "b",
        "dir2",
        "void",
    ]
    assert [info.uri.rpartition("/")[2] for info in backend.list(f"s3://{s3_bucket}/dir")] == ["a", "b"]
    backend.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"client": "curl"}, "client='curl' is not valid"),
        ({"retries": "many"}, "retries='many'"),
        ({"retries": True}, "retries=True"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout_s": 0}, "timeout_s=0 is not valid"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"connect_timeout_s": float("inf")}, "connect_timeout_s=inf"),
        ({"addressing_style": "sideways"}, "addressing_style"),
        ({"region": "two words"}, "region 'two words'"),
        ({"region": "us-east-1\n"}, "region"),
        ({"secret_access_key": SECRET}, "unknown option 'secret_access_key'"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        s3.backend(**options)
    assert SECRET not in str(raised.value)


def _read_in_child(uri: str, client: str, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        results.put(read(s3.backend(client=client), uri).decode())
    except TracekitError as error:
        results.put(str(error))


@pytest.mark.parametrize(
    ("method", "client", "message"),
    [("fork", "obstore", "forked"), ("spawn", "obstore", "body"), ("fork", "native", "body")],
)
def test_a_forked_child_gets_an_error_and_a_spawned_one_reads(
    s3_bucket: str, moto: servers.S3Server, method: str, client: str, message: str
) -> None:
    """The runtime of obstore does not survive a fork: a child gets an error and does not hang."""
    moto.put(s3_bucket, "k", b"body")
    uri = f"s3://{s3_bucket}/k"
    assert read(s3.backend(client=client), uri) == b"body"
    context: Any = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(uri, client, results))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert message in results.get()


def test_a_backend_that_nobody_closes_prints_no_warning(s3_env: servers.S3Server, s3_bucket: str) -> None:
    code = (
        "import gc\nfrom tracekit.backends.objects import s3\n"
        f"def use():\n    print(list(s3.backend(client='aiobotocore').list('s3://{s3_bucket}')))\n"
        "use(); gc.collect(); kept = s3.backend(client='aiobotocore')\n"
        f"print(list(kept.list('s3://{s3_bucket}')))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr, run.returncode) == ("[]\n[]\n", "", 0)


@pytest.mark.parametrize(
    ("region", "dualstack", "host"),
    [
        ("us-east-1", False, "s3.us-east-1.amazonaws.com"),
        ("eu-west-1", True, "s3.dualstack.eu-west-1.amazonaws.com"),
        ("cn-north-1", False, "s3.cn-north-1.amazonaws.com.cn"),
        ("mars-1", False, "s3.mars-1.amazonaws.com"),
    ],
)
def test_the_endpoint_of_a_region_is_botocores_without_a_warning(
    clean_env: pytest.MonkeyPatch, region: str, dualstack: bool, host: str
) -> None:
    clean_env.setenv("AWS_USE_DUALSTACK_ENDPOINT", str(dualstack))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = resolve(None, region, None, True, "auto")
        assert found.aws_endpoint("bucket", region) == f"https://bucket.{host}"
        assert found.aws_endpoint(None, region) == f"https://{host}"


def test_a_region_without_such_an_endpoint_is_refused_in_one_line(clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    with pytest.raises(UsageError, match=r"no endpoint in cn-north-1: .*FIPS"):
        resolve(None, "cn-north-1", None, True, "auto").aws_endpoint(None, "cn-north-1")
