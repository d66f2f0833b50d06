"""`doctor` says what works at a store, changes nothing unless it may, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from faults import FAULTS, KEYS, Handler, place, serving

import tracekit
from tracekit.store_options import CLIENTS

BODY = bytes(range(256)) * 32
REMOTE = ("s3-native", "s3-obstore", "s3-aiobotocore", "az-native", "az-azure-sdk")


def found(diagnosis: tracekit.Diagnosis) -> dict[str, bool | None]:
    return {check.name: check.ok for check in diagnosis.checks}


@pytest.mark.parametrize("case", REMOTE)
def test_a_store_that_works_passes_every_check(request: pytest.FixtureRequest, case: str) -> None:
    scheme, _, client = case.partition("-")
    name = request.getfixturevalue("s3_bucket" if scheme == "s3" else "az_container")
    root = f"{scheme}://{name}"
    backend = tracekit.backend_for(root)
    backend.put(f"{root}/d/k", BODY)
    diagnosis = tracekit.doctor(f"{root}/d", allow_writes=True, client=client)
    assert diagnosis.ok, diagnosis
    checks = found(diagnosis)
    assert {"list", "clock", "read", "ranges", "round trip", "write", "identity", "endpoint"} <= set(checks)
    assert all(checks[name] for name in ("list", "read", "ranges", "round trip", "write"))
    assert set(diagnosis.latency_ns) == {0, 4096}
    assert [info.uri for info in backend.list(root)] == [f"{root}/d/k"]
    secret = servers.AZURITE_KEY if scheme == "az" else "testing-secret-key"
    assert secret not in json.dumps(diagnosis.to_dict())
    backend.close()


def test_nothing_is_written_unless_asked(s3_bucket: str) -> None:
    diagnosis = tracekit.doctor(f"s3://{s3_bucket}")
    assert diagnosis.ok and found(diagnosis)["write"] is None
    assert list(tracekit.backend_for("s3://").list(f"s3://{s3_bucket}")) == []


def test_local_files_can_be_examined(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BODY)
    diagnosis = tracekit.doctor(str(tmp_path))
    assert diagnosis.ok and found(diagnosis)["ranges"]
    command = [sys.executable, "-m", "tracekit", "doctor", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and "not tried; give --allow-writes" in shown.stdout


def test_a_failed_check_is_one_line_and_exit_code_1(s3_env: servers.S3Server) -> None:
    command = [sys.executable, "-m", "tracekit", "doctor", "s3://no-such-bucket-9", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and run.stderr == ""
    told = json.loads(run.stdout)
    assert not told["ok"]
    assert "no such bucket" in next(check["detail"] for check in told["checks"] if check["name"] == "list")
    shown = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert shown.returncode == 1 and "FAILED" in shown.stdout and len(shown.stdout.splitlines()) < 24


def test_a_store_whose_clock_is_no_date_fails_one_check(clean_env: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)

    def script(handler: Handler) -> None:
        handler.send_response_only(403)
        handler.send_header("Date", "yesterday")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serving(script) as (endpoint, _):
        diagnosis = tracekit.doctor("s3://bucket/k", endpoint=endpoint, retries=0)
    assert found(diagnosis)["clock"] is False
    assert "no date: yesterday" in next(check.detail for check in diagnosis.checks if check.name == "clock")


@pytest.mark.parametrize(
    "client", [f"{scheme} {client}" for scheme in ("s3", "az", "gs", "http") for client in CLIENTS[scheme]]
)
def test_whatever_answers_is_diagnosed_and_not_a_defect(clean_env: pytest.MonkeyPatch, client: str) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    scheme, _, library = client.partition(" ")
    for fault in ("a connection that is closed", "another protocol"):
        with serving(FAULTS[fault]) as (endpoint, _):
            uri, options = place(endpoint, scheme)
            diagnosis = tracekit.doctor(uri, client=library, retries=0, timeout_s=2, **options)
        assert set(found(diagnosis)) >= {"list", "clock", "read", "ranges", "write"}, fault
        assert all("\n" not in check.detail for check in diagnosis.checks)
        assert not diagnosis.ok


def said(diagnosis: tracekit.Diagnosis) -> dict[str, str]:
    return {check.name: check.detail for check in diagnosis.checks}


def test_a_presigned_url_is_examined_and_its_signature_is_nowhere() -> None:
    asked = []

    def script(handler: Handler) -> None:
        asked.append(handler.path)
        handler.ranged()

    with serving(script) as (endpoint, _):
        diagnosis = tracekit.doctor(f"{endpoint}/bucket/k?X-Amz-Signature=s3cret")
    assert diagnosis.ok, diagnosis
    told = said(diagnosis)
    assert told["endpoint"] == endpoint and told["TLS"].startswith("no")
    assert told["clock"].endswith("against the store")
    assert set(asked) == {"/bucket/k?X-Amz-Signature=s3cret"}
    assert "s3cret" not in json.dumps(diagnosis.to_dict())


@pytest.mark.parametrize("client", CLIENTS["s3"])
def test_the_region_is_that_which_the_store_names(clean_env: pytest.MonkeyPatch, client: str) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)

    def script(handler: Handler) -> None:
        if "/eu-west-1/s3/" not in handler.headers.get("Authorization", ""):
            handler.reply(301, x_amz_bucket_region="eu-west-1")
        elif handler.path.startswith("/bucket?") or handler.path.startswith("/bucket/?"):
            entry = "<Contents><Key>k</Key><Size>4096</Size></Contents>"
            handler.reply(
                200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>".encode()
            )
        else:
            handler.ranged()

    with serving(script) as (endpoint, _):
        told = said(tracekit.doctor("s3://bucket", client=client, endpoint=endpoint))
    assert told["region"] == "eu-west-1 (the store names it; us-east-1 was configured)"


def test_the_endpoint_of_aws_has_tls(clean_env: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    dead = f"http://127.0.0.1:{servers.free_port()}"
    told = said(tracekit.doctor("s3://bucket", proxy=dead, retries=0))
    assert (told["endpoint"], told["TLS"]) == ("AWS S3 in us-east-1", "yes")
    assert f"by the proxy {dead}" in told["list"]


def test_the_object_of_the_examination_is_deleted_though_it_cannot_be_read(
    clean_env: pytest.MonkeyPatch,
) -> None:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)

    def unreadable(handler: Handler) -> None:
        if handler.command == "GET" and "list-type" in handler.path:
            handler.reply(200, b"<ListBucketResult></ListBucketResult>")
        elif handler.command in ("GET", "HEAD"):
            handler.reply(403 if handler.command == "GET" else 404)
        else:
            handler.reply(204 if handler.command == "DELETE" else 200)

    with serving(unreadable) as (endpoint, seen):
        diagnosis = tracekit.doctor("s3://bucket/d", allow_writes=True, endpoint=endpoint, retries=0)
    assert found(diagnosis)["write"] is False
    made = {line.split()[1] for line in seen if line.startswith("PUT")}
    assert len(made) == 1 and seen[-1] == f"DELETE {made.pop()}"
