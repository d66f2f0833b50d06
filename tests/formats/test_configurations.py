"""Configurations of load generators: what they say is what the trace has, and the real fio does what its job says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from tracekit.errors import UsageError
from tracekit.formats.fit import distance, fit, in_percent
from tracekit.formats.registry import export_trace, import_trace
from tracekit.store.reader import open_reader
from tracekit.store.writer import TraceWriter

FIO = shutil.which("fio")


def made(path: Path, **columns: list[Any]) -> Path:
    with TraceWriter(path, source="test", epoch_unix_ns=10**18) as writer:
        writer.write(pa.RecordBatch.from_pydict(columns))
    return path


def loader_like(path: Path) -> Path:
    """40 files of 64 KiB, each one sample of 16 reads of 4 KiB, in steps of 4 samples with 10 ms between them."""
    rows = [(sample, part) for sample in range(40) for part in range(16)]
    at = [(sample // 4) * 20_000_000 + (sample % 4) * 1_000_000 + part * 50_000 for sample, part in rows]
    return made(
        path, t_submit=at, uri=[f"file:///d/{sample:03d}.npz" for sample, _ in rows], op=["read"] * 640,
        offset=[part * 4096 for _, part in rows], len=[4096] * 640, bytes=[4096] * 640, latency=[40_000] * 640,
        sample_id=[sample for sample, _ in rows], step=[sample // 4 for sample, _ in rows],
    )  # fmt: skip


def exported(name: str, trace: Path, folder: Path) -> str:
    done = export_trace(name, trace, folder / name, overwrite=True)
    assert any("order of ops" in note for note in done.notes)
    return (folder / name).read_text()


def mixed(path: Path) -> Path:
    """3,000 random requests: 70 % reads of 4 and 64 KiB (3 : 1), 30 % writes of 16 KiB, in about a second."""
    kinds = [("read", 4096), ("read", 4096), ("read", 4096), ("read", 65536), ("read", 4096), ("read", 65536), ("read", 4096),
             ("write", 16384), ("write", 16384), ("write", 16384)]  # fmt: skip
    rows = [kinds[at % 10] for at in range(3000)]
    return made(
        path, t_submit=[at * 333_333 for at in range(3000)], uri=["file:///d/x"] * 3000, op=[op for op, _ in rows],
        offset=[(at * 7919 % 1000) * 65536 for at in range(3000)], len=[size for _, size in rows], bytes=[size for _, size in rows],
        latency=[100_000] * 3000,
    )  # fmt: skip


@pytest.mark.skipif(FIO is None, reason="fio is not installed")
def test_the_real_fio_runs_the_job_with_the_mix_and_sizes_of_the_trace(tmp_path: Path) -> None:
    job = exported("fio-job", mixed(tmp_path / "t"), tmp_path)
    assert "rwmixread=70" in job
    assert "bssplit=4096/71:65536/29,16384/100" in job
    command = [
        str(FIO),
        "--output-format=json",
        f"--directory={tmp_path}",
        str(tmp_path / "fio-job"),
        f"--write_iolog={tmp_path}/io.log",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr + run.stdout
    (facts,) = json.loads(run.stdout[run.stdout.index("{") :])["jobs"]
    import_trace("fio", tmp_path / "io.log", tmp_path / "again", strict=True)
    found = open_reader(tmp_path / "again").query("SELECT op, len FROM ops").to_pylist()
    assert abs(len(found) - 3000) <= 1
    assert sum(row["op"] == "read" for row in found) == facts["read"]["total_ios"]
    assert abs(sum(row["op"] == "read" for row in found) / 3000 - 0.7) < 0.05
    sizes = {kind: Counter(row["len"] for row in found if row["op"] == kind) for kind in ("read", "write")}
    assert set(sizes["write"]) == {16384}
    assert distance(sorted(sizes["read"].items()), [(4096, 5), (65536, 2)]) < 0.05


@pytest.mark.skipif(FIO is None, reason="fio is not installed")
def test_the_real_fio_reads_where_the_trace_reads(tmp_path: Path) -> None:
    """Seven of ten reads are in the first tenth of the file, three in the last."""
    tenth = 409_600
    offsets = [(at * 7919 % 100) * 4096 + (9 * tenth if at % 10 > 6 else 0) for at in range(2000)]
    made(
        tmp_path / "t", t_submit=[at * 200_000 for at in range(2000)], uri=["file:///d/x"] * 2000, op=["read"] * 2000,
        offset=offsets, len=[4096] * 2000, bytes=[4096] * 2000, latency=[100_000] * 2000,
    )  # fmt: skip
    job = exported("fio-job", tmp_path / "t", tmp_path)
    assert "random_distribution=zoned:70/10:0/10:0/10:0/10:0/10:0/10:0/10:0/10:0/10:30/10" in job
    assert "# fit of offsets: 0.0 % of the ops begin in another tenth of their file" in job
    command = [
        str(FIO),
        f"--directory={tmp_path}",
        str(tmp_path / "fio-job"),
        f"--write_iolog={tmp_path}/io.log",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr + run.stdout
    import_trace("fio", tmp_path / "io.log", tmp_path / "again", strict=True)
    found = open_reader(tmp_path / "again").query('SELECT "offset" FROM ops').to_pylist()
    where = Counter(row["offset"] // tenth for row in found)
    assert abs(len(found) - 2000) <= 1
    assert distance(sorted(where.items()), [(0, 7), (9, 3)]) < 0.05


def test_offsets_that_are_even_need_no_distribution(tmp_path: Path) -> None:
    job = exported("fio-job", mixed(tmp_path / "t"), tmp_path)
    assert "random_distribution" not in job
    assert re.search(r"# fit of offsets: [0-4]\.\d % of the ops", job)


def test_a_dlio_workload_has_the_files_batches_and_pauses_of_the_trace(tmp_path: Path) -> None:
    text = exported("dlio", loader_like(tmp_path / "t"), tmp_path)
    said = dict(re.findall(r"^  (\w+): (\S+)$", text, re.M))
    assert (said["num_files_train"], said["num_samples_per_file"], said["record_length_bytes"]) == (
        "40",
        "1",
        "65536",
    )
    assert (said["batch_size"], said["transfer_size"], said["read_threads"]) == ("4", "4096", "1")
    assert float(said["computation_time"]) == pytest.approx(0.02 - 0.00379, abs=1e-6)
    assert "samples in a step: 4 for 4 in the trace, 0.0 % off" in text
    assert "the trace reads 1.00 times the data set" in text
    line = exported("mlpstorage", tmp_path / "t", tmp_path).splitlines()[-1]
    assert line.startswith("mlpstorage training run ")
    assert "dataset.num_files_train=40 " in line


def test_both_spellings_of_the_record_length_are_in_a_dlio_workload(tmp_path: Path) -> None:
    said = dict(
        re.findall(r"^  (\w+): (\S+)$", exported("dlio", loader_like(tmp_path / "t"), tmp_path), re.M)
    )
    assert said["record_length"] == said["record_length_bytes"] == "65536"
    assert said["record_length_stdev"] == said["record_length_bytes_stdev"] == "0"


@pytest.mark.skipif(importlib.util.find_spec("dlio_benchmark") is None, reason="DLIO is not installed")
def test_the_real_dlio_takes_every_figure_of_its_workload(tmp_path: Path) -> None:
    """In a process of its own, because DLIO keeps its configuration in a global object."""
    exported("dlio", loader_like(tmp_path / "t"), tmp_path)
    script = (
        "import json, sys; from omegaconf import OmegaConf; from dlio_benchmark.utils.config import ConfigArguments, LoadConfig\n"
        "from dlio_benchmark.utils.utility import DLIOMPI; DLIOMPI.get_instance().initialize()\n"
        "args = ConfigArguments.get_instance(); LoadConfig(args, OmegaConf.load(sys.argv[1]))\n"
        "names = ('num_files_train', 'num_samples_per_file', 'record_length', 'batch_size', 'read_threads', 'transfer_size', 'epochs')\n"
        "print(json.dumps([getattr(args, name) for name in names]))"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "dlio")], capture_output=True, text=True, cwd=tmp_path, timeout=100)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [40, 1, 65536, 4, 1, 4096, 1]


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("dlio_benchmark") is None, reason="DLIO is not installed")
def test_the_real_dlio_reads_the_files_of_the_trace_once(tmp_path: Path) -> None:
    """A file of npz is the sample with some 500 bytes around it, and its header is read twice."""
    (tmp_path / "conf" / "workload").mkdir(parents=True)
    export_trace("dlio", loader_like(tmp_path / "t"), tmp_path / "conf" / "workload" / "ours.yaml")
    dlio = ["dlio_benchmark", "--config-dir", "conf", "workload=ours"]
    making = [*dlio, "++workload.workflow.generate_data=True", "++workload.workflow.train=False"]
    reading = [sys.executable, "-m", "tracekit", "capture", "-o", "run.trace"]
    for command in (making, [*reading, "--include", f"{tmp_path}/data/*", "--", *dlio]):
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
        assert run.returncode == 0, run.stderr + run.stdout
    ours, theirs = fit(open_reader(tmp_path / "run.trace")), fit(open_reader(tmp_path / "t"))
    assert (ours.files, ours.writes, ours.streams) == (theirs.files, 0, theirs.streams)
    assert abs(ours.file_bytes / theirs.file_bytes - 1) < 0.01
    assert 1 <= ours.read_bytes / theirs.read_bytes < 1.1
    assert "Ending epoch 1 - 10 steps completed" in run.stdout + run.stderr


def test_command_lines_have_the_sizes_and_concurrency_of_the_trace(tmp_path: Path) -> None:
    trace = loader_like(tmp_path / "t")
    line = exported("elbencho-command", trace, tmp_path).splitlines()[-1]
    assert line == "elbencho --read -t 1 --dirs 1 --files 40 --size 65536 --block 4096 DIRECTORY"
    assert (
        exported("warp-command", trace, tmp_path)
        .splitlines()[-1]
        .startswith("warp get --objects=40 --obj.size=65536 --concurrent=1 ")
    )
    objects = made(tmp_path / "o", t_submit=[0, 1, 2, 3], uri=["s3://b/a", "s3://b/b", "s3://b/c", "s3://b/c"], latency=[5] * 4,
                   op=["get", "get", "put", "stat"], len=[None] * 4, bytes=[100, 100, 100, 0])  # fmt: skip
    assert "--get-distrib=50 --stat-distrib=25 --put-distrib=25" in exported(
        "warp-command", objects, tmp_path
    )


@pytest.mark.skipif(shutil.which("elbencho") is None, reason="elbencho is not installed")
@pytest.mark.parametrize("random", [False, True])
def test_the_real_elbencho_reads_what_the_trace_read(tmp_path: Path, random: bool) -> None:
    offsets = [4096 * (block * 7 % 16 if random else block) for _ in range(12) for block in range(16)]
    trace = made(tmp_path / "t", t_submit=[at * 1000 for at in range(192)], uri=[f"file:///d/f{at // 16}" for at in range(192)],
                 op=["read"] * 192, offset=offsets, len=[4096] * 192, latency=[500] * 192)  # fmt: skip
    command = exported("elbencho-command", trace, tmp_path).splitlines()[-1].split()[:-1]
    assert ("--rand" in command) is random
    (tmp_path / "data").mkdir()
    making = [*(word for word in command if word not in ("--read", "--rand")), "--write", "--mkdirs", "data"]
    for line in (making, [*command, "--opslog", "log", "data"]):
        run = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert run.returncode == 0, run.stderr + run.stdout
    import_trace("elbencho", tmp_path / "log", tmp_path / "run", strict=True)
    ours, theirs = fit(open_reader(tmp_path / "run")), fit(open_reader(trace))
    assert (ours.files, ours.reads, ours.read_bytes) == (theirs.files, theirs.reads, theirs.read_bytes)


@pytest.mark.parametrize("name", ["fio-job", "dlio", "mlpstorage", "warp-command", "elbencho-command"])
def test_a_trace_without_data_is_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path / "t", t_submit=[0], uri=["file:///a"], op=["stat"], latency=[1])
    with pytest.raises(UsageError, match="no op moves data"):
        export_trace(name, tmp_path / "t", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_block_requests_are_numbered_by_file_and_the_rest_is_counted(tmp_path: Path) -> None:
    made(tmp_path / "t", t_submit=[1500, 2500, 3500, 4500], uri=["file:///b", "file:///a", "file:///a", "file:///a"],
         op=["write", "read", "stat", "read"], offset=[512, 0, None, None], len=[4096, 512, None, 1], latency=[250, None, 1, 1])  # fmt: skip
    done = export_trace("block-csv", tmp_path / "t", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == (
        "timestamp_us,device,op,offset,length,latency_us\n0,1,W,512,4096,0.25\n1,0,R,0,512,\n"
    )
    assert any(note.startswith("2 ops left out") for note in done.notes)


@examples(200)
@given(
    st.dictionaries(st.integers(1, 10**9), st.integers(1, 10**6), min_size=1, max_size=90), st.integers(1, 64)
)
def test_percents_add_up_and_are_as_near_as_their_number_allows(counts: dict[int, int], most: int) -> None:
    sizes = tuple(sorted(counts.items()))
    found = in_percent(sizes, most)
    assert sum(percent for _, percent in found) == 100
    assert len(found) <= most
    if len(sizes) <= most:
        assert distance(sizes, found) <= len(sizes) / 100
