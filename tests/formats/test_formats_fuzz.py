"""Every importer against damage: a good log cut, joined with noise, its numbers and line ends made wrong.

What comes out is a trace with exactly the ops counted, or one line of error and nothing
on disk; never a traceback, never half a trace, and nothing negative or out of range.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import TraceFormatError, UsageError
from tracekit.formats.base import ImportOptions, Tally
from tracekit.formats.registry import import_trace, importer, importers
from tracekit.store.reader import open_reader

GOOD = {
    "azure-log": b'1.0;2011-07-28T18:02:40.6271789Z;GetBlob;Success;200;28;21;authenticated;s;s;blob;"https://s.blob.core.windows.net/c/k?x;y";'
    b'"/s/c/k";fb65;0;201.9.10.20:4362;2009-09-19;438;100;223;512;;;"66Cb";"0x8C";Thursday;;"agent";;"req"\n',
    "blktrace": b"  8,0    1        4     0.000006270   697  D   R 223490 + 8 [kjournald]\n"
    b"  8,0    0        1     0.001000000     0  C   R 223490 + 8 [0]\n",
    "csv": b"uri,offset,len,t_submit,latency_us,op,more\n/d/a,0,10,5,1.5,read,x\n/d/b,,20,9,,put,\"y, z\"\n",
    "dftracer": b'[\n{"id":"1","name":"open64","cat":"POSIX","pid":"0","tid":"7","ts":"10","dur":"5","ph":"X",'
    b'"args":{"fname":"/d/a","ret":5}}\n{"id":"2","name":"read","cat":"POSIX","pid":"0","tid":"7","ts":"20","dur":"5",'
    b'"ph":"X","args":{"fname":"/d/a","fd":5,"ret":"7","count":"9"}}\n',
    "elbencho": b'{ "date": "2026-01-02T04:04:05.123+0100", "worker_rank": 3, "op_name": "read", "entry_name": "/d/f", "offset": 0, '
    b'"length": 4096, "is_finished": false, "is_error": false }\n{ "date": "2026-01-02T04:04:05.125+0100", "worker_rank": 3, '
    b'"op_name": "read", "entry_name": "/d/f", "offset": 0, "length": 4096, "is_finished": true, "is_error": false }\n',
    "gcs-usage": b'"time_micros","c_ip","cs_method","sc_status","cs_bytes","sc_bytes","time_taken_micros","cs_operation","cs_bucket","cs_object"\n'
    b'"1700000000000000","192.0.2.1","GET","200","0","1000","5000","GET_Object","bucket","a/b"\n',
    "minio-trace": b'{"time":"2026-01-02T03:04:05.000000001Z","client":"192.0.2.9:1","callStats":{"rx":9,"tx":1000,"duration":1234},'
    b'"api":"s3.GetObject","path":"/b/k","statusCode":200}\n',
    "fio": b"fio version 3 iolog\n1 /d/a add\n1 /d/a open\n5 /d/a read 0 4096\n90 /d/a write 4096 512\n99 /d/a close\n",
    "jsonl": b'{"uri": "/d/a", "offset": 0, "len": 10, "t_submit": 5, "tag": "x"}\n{"uri": "s3://b/k", "t_submit": 9, "latency": 7}\n',
    "lmcache": (
        b'\x00\x00\x003\x83\xa5magic\xc4\x04LMCT\xaeformat_version\x01\xact_wall_start\xcbA\xd9T\xfc@\x00\x00\x00\x00\x00\x00\xe3\x83'
        b'\xa8qualname\xbcStorageManager.reserve_write\xa6t_mono\xcb?\xf0\x00\x00\x00\x00\x00\x00\xa4args\x82'
        b'\xa4keys\x91\x82\xa5__t__\xa9ObjectKey\xa1v\x84\xaachunk_hash\xc4\x01\x01\xaamodel_name\xa5llama\xa7kv'
        b'_rank\x00\xafobject_group_id\x00\xablayout_desc\x82\xa5__t__\xb0MemoryLayoutDesc\xa1'
        b'v\x82\xa6shapes\x91\x94\x02\x04\xd3\x00\x00\x00\x00\x00\x00\x01\x00\x08\xa6dtypes\x91\xaetorch.bfloat16\x00\x00\x00\x8f\x83\xa8qualname'
        b'\xbbStorageManager.finish_write\xa6t_mono\xcb@\x00\x00\x00\x00\x00\x00\x00\xa4args\x81\xa4keys\x91\x82\xa5__'
        b't__\xa9ObjectKey\xa1v\x84\xaachunk_hash\xc4\x01\x01\xaamodel_name\xa5llama\xa7kv_rank\x00\xafobj'
        b'ect_group_id\x00\x00\x00\x00\xa5\x83\xa8qualname\xd90StorageManager.read_prefetched_'
        b'results.__enter__\xa6t_mono\xcb@\x08\x00\x00\x00\x00\x00\x00\xa4args\x81\xa4keys\x91\x82\xa5__t__\xa9ObjectK'
        b'ey\xa1v\x84\xaachunk_hash\xc4\x01\x01\xaamodel_name\xa5llama\xa7kv_rank\x00\xafobject_group_i'
        b'd\x00'
    ),
    "mooncake": b'{"timestamp": 0, "input_length": 900, "output_length": 9, "hash_ids": [1, 2]}\n{"timestamp": 27482, "hash_ids": [1]}\n',
    "nfsdump": b"1006231504.285023 32.03fd 30.0801 T C3 f1 6 read fh cfbc off 0 count 2000 con = 1 len = 1\n"
    b"1006231504.294708 30.0801 32.03fd T R3 f1 6 read OK ftype 1 count 2000 eof 0 status=0 pl = 0 con = 1 len = 1\n",
    "s3-access-log": b'79a5 B [06/Feb/2019:00:00:38 +0000] 192.0.2.3 - 3E57 REST.GET.OBJECT a/b "GET /a/b HTTP/1.1" 200 - '
    b'1000 5000 70 10 "-" "agent" -\n',
    "s3dlio": b"idx\tthread\top\tclient_id\tn_objects\tbytes\tendpoint\tfile\terror\tstart\tfirst_byte\tend\tduration_ns\n"
    b"0\t7\tGET\t\t1\t10\tfile://\t/d/a\t\t2026-11-23T14:26:24.121248456Z\t\t2026-11-23T14:26:24.122213126Z\t964670\n"
    b"1\t8\tGET_RANGE\t\t1\t10\tfile://\t/d/a\tnot found\t2026-11-23T14:26:24.121248456Z\t\t2026-11-23T14:26:24.122213126Z\t964670\n",
    "strace": b'7 1700000000.1 openat(AT_FDCWD, "/d/a", O_RDONLY) = 3</d/a> <0.1>\n7 1700000000.2 read(3</d/a>, ""..., 10) = 7 <0.1>\n'
    b'7 1700000000.3 lseek(3</d/a>, 5, SEEK_SET) = 5 <0.1>\n8 1700000000.4 pread64(3</d/a>, ""..., 10, 20 <unfinished ...>\n'
    b"8 1700000000.5 <... pread64 resumed>) = 7 <0.1>\n",
}  # fmt: skip
GOOD["warp"] = GOOD["s3dlio"]
NUMBERS = [b"-1", b"NaN", b"inf", b"1e400", b"99999999999999999999999999", b"9223372036854775807", b"-9223372036854775808",
           b"0x10", b"1.5", b"", b"4611686018427387905", b"true", b"null", "٣".encode(), b"1_000", b" 7 ", b"\x00", b"\xff\xfe"]  # fmt: skip
FORMATS = sorted(GOOD)
HEADED = ("csv", "gcs-usage", "s3dlio", "warp")


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A log of format `name` that something happened to."""
    data = GOOD[name] * draw(st.integers(1, 3))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["cut", "noise", "number", "ends", "quote", "swap", "field"]))
        at = draw(st.integers(0, len(data)))
        if kind == "cut":
            data = data[:at]
        elif kind == "noise":
            data = data[:at] + draw(st.binary(max_size=40)) + data[at:]
        elif kind == "number":
            digits = [
                i
                for i, byte in enumerate(data)
                if 48 <= byte <= 57 and (i == 0 or not 48 <= data[i - 1] <= 57)
            ]
            if digits:
                start = draw(st.sampled_from(digits))
                end = start
                while end < len(data) and 48 <= data[end] <= 57:
                    end += 1
                data = data[:start] + draw(st.sampled_from(NUMBERS)) + data[end:]
        elif kind == "ends":
            data = data.replace(
                b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b"\n\r\n", b"\x0b\n", b" \n"]))
            )
        elif kind == "quote":
            data = data[:at] + b'"' + data[at:]
        elif kind == "swap":
            lines = data.splitlines(keepends=True)
            data = b"".join(draw(st.permutations(lines))) if len(lines) < 12 else data
        else:
            data = data[:at] + draw(st.sampled_from([b"\t", b",", b" ", b"{", b"]", b"<", b"("])) + data[at:]
    return data


def check(folder: Path, name: str, data: bytes, *, strict: bool) -> None:
    """Import `data` as `name`: whole and sound, or refused with nothing left behind."""
    log, out = folder / "log", folder / "out"
    log.write_bytes(data)
    try:
        done = import_trace(name, log, out, strict=strict)
    except (TraceFormatError, UsageError) as error:
        assert "\n" not in str(error)
        assert sorted(p.name for p in folder.iterdir()) == ["log"]
        return
    reader = open_reader(out)
    assert reader.rows == done.ops
    assert not (strict and done.skipped)
    (bad,) = reader.query(
        'SELECT count(*) AS n FROM ops WHERE t_submit < 0 OR least("offset", len, bytes, latency, ttfb) < 0'
        " OR uri NOT LIKE '%://%' OR worker < 0 OR rank < 0"
    ).to_pylist()
    assert bad["n"] == 0
    shutil.rmtree(out)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "fuzz").mkdir()
    yield tmp_path / "fuzz"


def test_every_importer_has_a_log_here() -> None:
    """Of recorder a log is a directory: test_recorder_log.py cuts and damages each of its files."""
    assert {*GOOD, "darshan", "recorder"} == set(importers())


@pytest.mark.parametrize("name", FORMATS)
@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    strict=st.booleans(),
    squeeze=st.sampled_from([None, None, "gzip", "zstd"]),
    cut=st.integers(0, 9),
)
def test_a_damaged_log_gives_a_sound_trace_or_one_line(
    folder: Path, name: str, data: st.DataObject, strict: bool, squeeze: str | None, cut: int
) -> None:
    content = data.draw(damaged(name))
    if squeeze == "gzip":
        content = gzip.compress(content)
    elif squeeze == "zstd":
        content = pa.compress(content, codec="zstd", asbytes=True)
    if squeeze and cut < 3:
        content = content[: len(content) * (cut + 1) // 5]
    check(folder, name, content, strict=strict)


def told(name: str, log: Path) -> int:
    """How many lines of a log are ops, or are counted as bad or as left out."""
    tally, ops = Tally(log), 0
    for batch in importer(name).read(log, tally, ImportOptions()):
        ops += batch.num_rows
        if name == "s3-access-log":  # a copy has two lines
            ops += batch.column("op").to_pylist().count("copy")
    return ops + tally.skipped + tally.left_out.total()


@pytest.mark.parametrize(
    "name", ["azure-log", "csv", "gcs-usage", "jsonl", "minio-trace", "s3-access-log", "s3dlio", "warp"]
)
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_line_of_a_damaged_log_is_lost_in_silence(folder: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(damaged(name))
    assume(content[:2] not in (b"\xff\xfe", b"\xfe\xff"))  # which would be UTF-16
    (folder / "log").write_bytes(content)
    lines = [line for line in re.split(rb"\r\n|\r|\n", content) if line.strip()]
    headers: list[bytes] = []
    if name in HEADED:
        headers = [line.strip().lower() for line in (GOOD[name].splitlines()[0], *lines[:1])]
    silent = [line for line in lines if line.strip().lower() in headers or line.startswith(b"#")]
    if name == "minio-trace":  # what follows the begin of an object of many lines is part of it
        assume(not any(line.strip() == b"{" for line in lines))
    try:
        counted = told(name, folder / "log")
    except (TraceFormatError, UsageError):
        return
    assert len(lines) - len(silent) <= counted <= len(lines)


@pytest.mark.parametrize("name", [*FORMATS, "darshan"])
@pytest.mark.parametrize("data", [b"", b"\n", b"\r\r", b"\x00" * 5000, b"\xff" * 5000, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh",
                                  b"a" * 200_000, b",\n" * 500, b"\t\n" * 500, b"{}\n" * 50, b"[\n"])  # fmt: skip
def test_a_file_that_is_not_a_log_is_refused(folder: Path, name: str, data: bytes) -> None:
    if name == "darshan":
        pytest.importorskip("darshan", reason="the package darshan is not installed")
        if len(data) > 4:
            pytest.skip("one small stranger is enough for a process each")
    check(folder, name, data, strict=False)


@pytest.mark.parametrize("name", FORMATS)
def test_a_good_log_of_each_format_is_read_strictly(folder: Path, name: str) -> None:
    (folder / "log").write_bytes(GOOD[name])
    assert import_trace(name, folder / "log", folder / "out", strict=True).skipped == 0


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "lmcache"])
def test_a_byte_order_mark_before_a_log_is_skipped(folder: Path, name: str) -> None:
    (folder / "log").write_bytes(b"\xef\xbb\xbf" + GOOD[name])
    (folder / "plain").write_bytes(GOOD[name])
    import_trace(name, folder / "log", folder / "a", strict=True)
    import_trace(name, folder / "plain", folder / "b", strict=True)
    sql = "SELECT * FROM ops ORDER BY ALL"
    assert open_reader(folder / "a").query(sql).equals(open_reader(folder / "b").query(sql))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("ends", [b"\r\n", b"\r"])
def test_all_line_ends_are_read_alike(folder: Path, name: str, ends: bytes) -> None:
    (folder / "log").write_bytes(GOOD[name].replace(b"\n", ends))
    (folder / "plain").write_bytes(GOOD[name])
    import_trace(name, folder / "log", folder / "a", strict=True)
    import_trace(name, folder / "plain", folder / "b", strict=True)
    sql = "SELECT * FROM ops ORDER BY ALL"
    assert open_reader(folder / "a").query(sql).equals(open_reader(folder / "b").query(sql))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "lmcache"])
@pytest.mark.parametrize("blank", [b"\n", b" \n"])
def test_blank_lines_are_skipped(folder: Path, name: str, blank: bytes) -> None:
    (folder / "log").write_bytes(blank.join(GOOD[name].splitlines(keepends=True)) + blank * 2)
    (folder / "plain").write_bytes(GOOD[name])
    import_trace(name, folder / "log", folder / "a", strict=True)
    import_trace(name, folder / "plain", folder / "b", strict=True)
    sql = "SELECT * FROM ops ORDER BY ALL"
    assert open_reader(folder / "a").query(sql).equals(open_reader(folder / "b").query(sql))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "lmcache"])
@pytest.mark.parametrize(
    "number", [b"9" * 19, b"9223372036854775807", b"18446744073709551615", b"1e300", b"9999", b"0001"]
)
def test_a_number_out_of_range_in_any_place_gives_a_sound_trace_or_one_line(
    folder: Path, name: str, number: bytes
) -> None:
    """The years of dates are among the places."""
    data = GOOD[name]
    places = [found.span() for found in re.finditer(rb"\d+", data)]
    for start, end in places[:: max(len(places) // 12, 1)]:
        check(folder, name, data[:start] + number + data[end:], strict=False)


@pytest.mark.parametrize("year", [b"0001", b"1677", b"1969", b"2300", b"9999"])
@pytest.mark.parametrize("name", ["azure-log", "elbencho", "minio-trace", "s3-access-log", "s3dlio", "warp"])
def test_a_log_of_years_that_no_trace_can_hold_is_refused(folder: Path, name: str, year: bytes) -> None:
    (folder / "log").write_bytes(re.sub(rb"\b20\d\d(?=[-:])", year, GOOD[name]))
    with pytest.raises(TraceFormatError, match="contains no op that can be read; line"):
        import_trace(name, folder / "log", folder / "out")
    assert not (folder / "out").exists()
