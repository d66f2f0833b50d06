"""No secret reaches a trace, whatever field it was planted in."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TracekitError
from tracekit.formats.registry import import_trace
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader
from tracekit.store.totals import distinct_uris
from tracekit.store.writer import TraceWriter
from tracekit.uri import clean

SECRET = "s3cr3tXYZ"
URIS = [
    "https://h/p?sv=1&sig={}", "fsspec::s3://user:{}@b/k", "simplecache::s3://b/k?X-Amz-Signature={}",
    " s3://b/k?X-Amz-Signature={}", "\ts3://u:{}@b/k", "//host/p?X-Amz-Signature={}", "//u:{}@host/p", "s3:/b/k?sig={}",
    "zip://x.csv::https://h/p?token=a::{}", "az://c/k#{}", "HTTPS://u:{}@h/p", "gs://b/k?x#{}",
]  # fmt: skip
TEXTS = [
    "train --api-key {}", "train --token={} x", "--password '{}'", "run --hf-token  {}", "AWS_SECRET_ACCESS_KEY={} run",
    "Authorization: Bearer {}", "curl -H 'Authorization: {}'", '{{"secret_access_key": "{}"}}', "{{'token': '{}'}}",
    "AccountKey={};EndpointSuffix=x", "--connection-string {}", "<AWSAccessKeyId>{}</AWSAccessKeyId>",
    "fetch https://h/p?a=b&sig={} now", "Bearer {}", "x-amz-security-token: {}", "--client_secret {}", "my_password={}",
]  # fmt: skip
KEYS = ["secret_access_key", "token", "api_key", "API-KEY", "password", "sas_token", "connection_string", "sig",
        "aws_session_token", "account_key", "authorization"]  # fmt: skip
ids = pytest.mark.parametrize


@ids("template", URIS)
def test_a_uri_is_recorded_without_its_secret(template: str) -> None:
    assert SECRET not in clean(template.format(SECRET))


@ids(
    "uri",
    ["file:///a?b#c@d::e", "direct:///x?sig=1", "plain?name", "s3://b/a::b@c", "/data/a?b", "s3://b/k@v2"],
)
def test_names_of_files_and_keys_are_kept(uri: str) -> None:
    assert clean(uri) == uri


def planted() -> st.SearchStrategy[Any]:
    text = st.sampled_from(
        [*TEXTS, *(uri for uri in URIS if "://" in uri and uri[0].isalpha() and "::" not in uri)]
    )
    leaf = text.map(lambda template: template.format(SECRET))
    secret = st.dictionaries(st.sampled_from(KEYS), st.just(SECRET), min_size=1, max_size=2)
    argv = st.sampled_from(["--api-key", "--token", "-password", "--secret-key"]).map(
        lambda flag: ["run", flag, SECRET]
    )
    return st.recursive(
        st.one_of(leaf, secret, argv),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=3), inner)
        ),
        max_leaves=6,
    )


def everything(root: Path) -> str:
    """All that is in the files of a trace: raw bytes, metadata, and every value after decompression."""
    found = []
    for file in root.rglob("*"):
        if file.is_file():
            found.append(file.read_bytes().decode(errors="replace"))
            if file.suffix == ".parquet":
                found.append(str(pq.read_table(file).to_pylist()))
                found.append(str(pq.read_metadata(file).metadata))
                found += [
                    str(row) for row in duckdb.execute("FROM parquet_kv_metadata(?)", [str(file)]).fetchall()
                ]
    return "\n".join(found)


@examples(25)
@given(
    options=st.dictionaries(st.text("abcd", max_size=4), planted(), max_size=3),
    texts=st.lists(st.sampled_from(TEXTS)),
)
def test_no_planted_secret_is_in_any_byte_of_a_trace(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("secrets")
    uris = [template.format(SECRET) for template in URIS]
    source = " ".join(text.format(SECRET) for text in texts[:2]) or "loader"
    with Recorder(folder / "r", options=options, source=source) as recorder:
        for uri in uris:
            recorder.record(uri, 0, 1, time.monotonic_ns(), 1)
        recorder.flush()
        assert SECRET not in everything(folder)
        columns = {"uri": uris, "t_submit": [time.monotonic_ns()] * len(uris), "offset": [0] * len(uris),
                   "len": [1] * len(uris), "latency": [1] * len(uris), "sample_id": [0] * len(uris)}  # fmt: skip
        recorder.record_batch(pa.RecordBatch.from_pydict(columns))
    with TraceWriter(folder / "w", source=source, options=options) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    assert SECRET not in everything(folder)
    assert SECRET not in json.dumps([open_reader(folder / name).options for name in "rw"])


def test_a_rejected_op_is_reported_without_the_secret_in_its_uri(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "t")
    recorder.record(f"s3://b/k?sig={SECRET}", "x", 1, time.monotonic_ns(), 1)  # type: ignore[arg-type]
    with pytest.raises(TracekitError) as caught:
        recorder.close()
    assert SECRET not in str(caught.value)
    with contextlib.suppress(TracekitError):
        recorder.close()


def test_another_tools_file_is_read_without_the_secrets_in_its_uris(tmp_path: Path) -> None:
    """It is another's, so it is not changed; but no query, report or export shows them."""
    hidden = [
        f"s3://me:{SECRET}@b/k",
        f"https://h/p?X-Amz-Signature={SECRET}",
        f" https://h/p?sig={SECRET}",
        f"simplecache::https://me:{SECRET}@h/k",
    ]
    table = {name: [1] * 5 for name in ("offset", "len", "t_submit", "sample_id", "latency")}
    file = tmp_path / "theirs.parquet"
    pq.write_table(pa.table({"uri": [*hidden, "file:///d/a?b#c"], "to_uri": [None, *hidden], **table}), file)
    opened = open_reader(file)
    found = opened.query("SELECT uri, to_uri FROM ops").to_pylist()
    assert SECRET not in str(found)
    assert "file:///d/a?b#c" in [row["uri"] for row in found]
    assert SECRET not in str([batch.to_pylist() for batch in opened.batches()])
    assert SECRET not in str(distinct_uris(opened, ["read"]))


@pytest.mark.parametrize(
    "name",
    [
        f" https://h/p?sig={SECRET}",
        f"//h/p?X-Amz-Signature={SECRET}",
        f"s3:/b/k?sig={SECRET}",
        f"fsspec::s3://me:{SECRET}@b/k",
        f"https:/h/p?sig={SECRET}",
    ],
)
def test_a_name_that_is_nearly_a_uri_is_imported_without_its_secret(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text(f'uri,offset,len,t_submit,sample_id,latency\n"{name}",0,1,5,1,10\n')
    import_trace("csv", log, tmp_path / "t")
    (row,) = open_reader(tmp_path / "t").query("SELECT uri FROM ops").to_pylist()
    assert SECRET not in row["uri"]
