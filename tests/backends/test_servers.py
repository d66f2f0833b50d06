"""The test servers work, so that a failing backend test points to the backend."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import servers


def test_moto_returns_what_was_put(s3_bucket: str, moto: servers.S3Server) -> None:
    moto.put(s3_bucket, "a/b c", b"hello")
    assert moto.request("GET", f"/{s3_bucket}/a/b%20c") == b"hello"


def test_azurite_makes_containers(az_container: str, azurite: servers.AzuriteServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
        urllib.request.urlopen(f"{azurite.endpoint}/{az_container}/none", timeout=10)


def test_nginx_serves_ranges_of_a_folder_as_a_bucket(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x").write_bytes(b"0123456789")
    try:
        with servers.nginx_bucket(folder, tmp_path / "nginx") as server:
            request = urllib.request.Request(f"{server.endpoint}/bucket/x", headers={"Range": "bytes=2-4"})
            with urllib.request.urlopen(request, timeout=10) as response:
                assert (response.status, response.read()) == (206, b"234")
            assert b"<Key>x</Key><Size>10</Size>" in server.request("GET", "/bucket?list-type=2")
    except servers.Unavailable as missing:
        pytest.skip(str(missing))


def test_the_fault_proxy_injects_its_faults_and_then_forwards(s3_bucket: str, moto: servers.S3Server) -> None:
    moto.put(s3_bucket, "k", b"body")
    with servers.fault_proxy(moto.endpoint) as proxy:
        proxy.faults.append(servers.SLOW_DOWN)
        through = servers.S3Server(proxy.endpoint)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            through.request("GET", f"/{s3_bucket}/k")
        assert through.request("GET", f"/{s3_bucket}/k") == b"body"
        assert len(proxy.seen) == 2
