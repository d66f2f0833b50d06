"""Writes configurations of load generators that are like a trace: fio jobs, DLIO and mlpstorage, warp, elbencho.

A configuration is a fit: it keeps a trace's mix, sizes, sizes of files and concurrency, not its order. Each says, in
comments, how far it is from the trace.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from tracekit.formats.base import Carries, ExportOptions, Tally
from tracekit.formats.fit import Fit, Sizes, distance, fit, in_percent
from tracekit.store.reader import TraceReader
from tracekit.uri import FILE_SCHEMES, scheme_of

__all__ = ["Configuration", "Dlio", "ElbenchoCommand", "FioJob", "MlpStorage", "WarpCommand"]

_FIO_SIZES_MAX = 60
_FIO_BLOCK_BYTES = 512
_UNEVEN = 0.05
"""How far from even the offsets of a trace are before a job says where they are."""
_CARRIES = Carries(
    "rates",
    latency="no",
    offset="random or in order",
    length="distribution",
    streams="number of",
    errors="no",
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Writes what `lines` makes of the figures of a trace."""

    name: str
    about: str
    lines: Callable[[Fit], list[str]]
    carries: Carries = _CARRIES

    def write(self, trace: TraceReader, sink: BinaryIO, tally: Tally, options: ExportOptions) -> int:
        """As the protocol says."""
        figures = fit(trace)
        sink.write(("\n".join(self.lines(figures)) + "\n").encode())
        tally.note(
            "a configuration keeps mixes and distributions: the order of ops, their times and names are not in it"
        )
        return figures.ops


def _about(figures: Fit) -> list[str]:
    """Return the comments that say what was fitted."""
    return [
        f"# {figures.reads} reads ({figures.read_bytes} bytes) and {figures.writes} writes ({figures.write_bytes} bytes) of"
        f" {figures.files} files by {figures.streams} streams in {figures.span_ns / 1e9:.3f} s",
    ]


def _error(name: str, ours: float, theirs: float) -> str:
    """Return the comment on one figure: what the trace has, what the configuration says, and the difference."""
    off = 0.0 if ours == theirs else 100 * abs(ours - theirs) / theirs if theirs else math.inf
    return f"# fit of {name}: {ours:g} for {theirs:g} in the trace, {off:.1f} % off"


def _fio(figures: Fit) -> list[str]:
    most_streams = max(figures.streams, 1)
    depth = max(round((figures.depth or most_streams) / most_streams), 1)
    file_bytes = _aligned(max(figures.file_bytes, _largest(figures)))
    seconds = max(figures.span_ns / 1e9, 1e-3)
    reads, writes = (
        in_percent(_in_blocks(sizes), _FIO_SIZES_MAX) for sizes in (figures.read_sizes, figures.write_sizes)
    )
    random = figures.random_percent
    direction = "rw" if figures.reads and figures.writes else "read" if figures.reads else "write"
    lines = [
        *_about(figures),
        f"# fit of read sizes: {100 * distance(figures.read_sizes, reads):.1f} % of the reads have another size",
        f"# fit of write sizes: {100 * distance(figures.write_sizes, writes):.1f} % of the writes have another size",
        _error("size of a file", file_bytes, figures.file_bytes),
        _error("ops in flight", depth * most_streams, figures.depth or depth * most_streams),
        "[global]",
        "ioengine=psync" if depth == 1 else "ioengine=libaio",
        f"iodepth={depth}",
        f"numjobs={most_streams}",
        "group_reporting=1",
        f"nrfiles={max(figures.files, 1)}",
        f"filesize={file_bytes}",
        "filename_format=tracekit.$filenum",
        "file_service_type=random",
        "randrepeat=1",
        "norandommap=1",
        "bs_unaligned=1",
        "",
        "[trace]",
        f"rw={'rand' if direction == 'rw' or (random or 0) > 0 else ''}{direction}",
        f"io_size={max((figures.read_bytes + figures.write_bytes) // most_streams, 1) * 2}",
        f"number_ios={math.ceil(figures.ops / most_streams)}",
        f"rate_iops={_rates(figures, most_streams, seconds)}",
    ]
    if direction == "rw":
        # with linear rates of both directions, fio 3.33 does not keep the mix
        lines += [f"rwmixread={round(figures.read_percent)}", "rate_process=poisson"]
        lines.insert(5, _error("reads in percent", round(figures.read_percent), figures.read_percent))
    if random is not None:
        lines.append(f"percentage_random={round(random)}")
        lines.insert(5, _error("random ops in percent", round(random), random))
        zones, comment = _zones(figures)
        lines += zones if random else []
        lines.insert(5, comment)
    split = ",".join(
        ":".join(f"{size}/{percent}" for size, percent in part) for part in (reads, writes or reads)
    )
    lines.append(f"bssplit={split if reads else ',' + split.rpartition(',')[2]}")
    return lines


def _zones(figures: Fit) -> tuple[list[str], str]:
    """Return fio's distribution of random offsets over the tenths of a file, where it is not even, and a comment on it."""
    even = tuple((tenth, 10) for tenth in range(10))
    fitted = in_percent(figures.tenths, 10)
    spread = distance(figures.tenths, even) > _UNEVEN
    off = 100 * distance(figures.tenths, fitted if spread else even)
    comment = f"# fit of offsets: {off:.1f} % of the ops begin in another tenth of their file"
    if not spread:
        return [], comment
    shares = dict(fitted)
    return [
        f"random_distribution=zoned:{':'.join(f'{shares.get(tenth, 0)}/10' for tenth, _ in even)}"
    ], comment


def _rates(figures: Fit, jobs: int, seconds: float) -> str:
    """Return the ops a second of one job, of reads and of writes; fio takes whole numbers."""
    rates = [max(round(ops / seconds / jobs), 1) if ops else 0 for ops in (figures.reads, figures.writes)]
    return str(rates[0]) if not figures.writes else f"{rates[0] or ''},{rates[1]}"


def _in_blocks(sizes: Sizes) -> Sizes:
    """Return sizes as fio can make them: whole blocks."""
    found: dict[int, int] = {}
    for size, ops in sizes:
        block = _aligned(size)
        found[block] = found.get(block, 0) + ops
    return tuple(sorted(found.items()))


def _aligned(size: float) -> int:
    return max(math.ceil(size / _FIO_BLOCK_BYTES), 1) * _FIO_BLOCK_BYTES


def _largest(figures: Fit) -> int:
    return max((size for size, _ in (*figures.read_sizes, *figures.write_sizes)), default=0)


def _mean_size(sizes: Sizes) -> int:
    total = sum(ops for _, ops in sizes)
    return round(sum(size * ops for size, ops in sizes) / total) if total else 0


def _dlio_figures(figures: Fit) -> tuple[dict[str, object], list[str]]:
    """Return DLIO's parameters, and comments on their fit."""
    per_file = max(round(figures.samples / figures.files), 1) if figures.samples else 1
    record = round(figures.file_bytes / per_file)
    batch = max(round(figures.samples_per_step or 1), 1)
    compute_s = (figures.step_gap_ns or 0) / 1e9
    threads = max(round(figures.streams / max(figures.ranks, 1)), 1)
    values: dict[str, object] = {
        "dataset.num_files_train": figures.files,
        "dataset.num_samples_per_file": per_file,
        "dataset.record_length_bytes": record,
        "dataset.record_length_bytes_stdev": round(figures.file_bytes_dev / per_file),
        "reader.batch_size": batch,
        "reader.read_threads": threads,
        "reader.transfer_size": _mean_size(figures.read_sizes) or record,
        "train.epochs": 1,
        "train.computation_time": round(compute_s, 6),
        "train.computation_time_stdev": round((figures.step_gap_dev_ns or 0) / 1e9, 6),
    }
    epoch = figures.read_bytes / max(per_file * record * figures.files, 1)
    comments = [
        *_about(figures),
        _error(
            "bytes of the data set", per_file * record * figures.files, figures.file_bytes * figures.files
        ),
        _error("samples in a step", batch, figures.samples_per_step or batch),
        f"# the trace reads {epoch:.2f} times the data set, an epoch of DLIO once",
    ]
    if figures.step_gap_ns is None:
        comments.append("# the trace has no steps: computation_time is 0 because it is not known")
    else:
        comments.append(
            f"# computation_time is the mean gap between steps; it deviates by {(figures.step_gap_dev_ns or 0) / 1e9:.6f} s"
        )
    return values, comments


def _dlio(figures: Fit) -> list[str]:
    values, comments = _dlio_figures(figures)
    for name in (
        "record_length",
        "record_length_stdev",
    ):  # as DLIO 2.0.0 calls them; each version passes over the other's
        values[f"dataset.{name}"] = values[f"dataset.{name.replace('length', 'length_bytes')}"]
    lines = [
        *comments,
        "model:",
        "  name: tracekit",
        "  type: cnn",
        "framework: pytorch",
        "workflow:",
        "  generate_data: False",
        "  train: True",
        "  checkpoint: False",
    ]
    fixed = {
        "dataset": ["  data_folder: data/tracekit", "  format: npz"],
        "reader": ["  data_loader: pytorch", "  file_shuffle: seed", "  sample_shuffle: seed"],
        "train": [],
    }
    for group, first in fixed.items():
        lines += [f"{group}:", *first]
        lines += [
            f"  {name.partition('.')[2]}: {value}"
            for name, value in values.items()
            if name.startswith(f"{group}.")
        ]
    return lines


def _mlpstorage(figures: Fit) -> list[str]:
    values, comments = _dlio_figures(figures)
    given = " ".join(f"{name}={value}" for name, value in values.items())
    command = f"mlpstorage training run --model unet3d --num-accelerators {max(figures.ranks, 1)} --accelerator-type h100"
    return [
        *comments,
        f"{command} --client-host-memory-in-gb 64 --data-dir data/tracekit --results-dir results --params {given}",
    ]


def _warp(figures: Fit) -> list[str]:
    size = round(figures.file_bytes)
    shares = {"get": figures.reads, "stat": figures.stats, "put": figures.writes, "delete": figures.deletes}
    total = sum(shares.values())
    concurrency = max(round(figures.depth or figures.streams), 1)
    lines = [*_about(figures), _error("size of an object", size, figures.file_bytes)]
    lines.append(
        f"# sizes of objects deviate by {figures.file_bytes_dev:.0f} bytes; range reads become whole ones"
    )
    common = f"--obj.size={max(size, 1)} --concurrent={concurrency} --duration={max(math.ceil(figures.span_ns / 1e9), 1)}s"
    if shares["get"] == total:
        return [*lines, f"warp get --objects={figures.files} {common}"]
    if shares["put"] == total:
        return [*lines, f"warp put {common}"]
    mix = " ".join(f"--{name}-distrib={100 * ops / total:.0f}" for name, ops in shares.items())
    return [*lines, f"warp mixed --objects={figures.files} {mix} {common}"]


def _elbencho(figures: Fit) -> list[str]:
    sizes = figures.read_sizes or figures.write_sizes
    block = _mean_size(sizes)
    size = max(round(figures.file_bytes), 1)
    remote = scheme_of(figures.directory) not in FILE_SCHEMES
    threads = max(round(figures.depth or figures.streams), 1)
    per_thread = max(math.ceil(figures.files / threads), 1)
    words = [
        "elbencho",
        *(["--write"] if figures.writes else []),
        *(["--read"] if figures.reads else []),
        "-t",
        str(threads),
        "--dirs",
        "1",
        "--files",
        str(per_thread),
        "--size",
        str(size),
        "--block",
        str(block),
    ]
    if (figures.random_percent or 0) > 50:
        words.append("--rand")
    lines = [
        *_about(figures),
        _error("number of files", per_thread * threads, figures.files),
        f"# fit of sizes: {100 * distance(sizes, ((block, 1),)):.1f} % of the ops have another size than the mean",
    ]
    return [*lines, shlex.join([*words, "s3://BUCKET" if remote else "DIRECTORY"])]


FioJob = partial(
    Configuration, "fio-job", "fio job file with the trace's mix, sizes, rate and concurrency", _fio
)
Dlio = partial(
    Configuration, "dlio", "DLIO workload (YAML) with the trace's files, batches and computation time", _dlio
)
MlpStorage = partial(
    Configuration,
    "mlpstorage",
    "mlpstorage command line with the trace's files, batches and computation time",
    _mlpstorage,
)
WarpCommand = partial(
    Configuration,
    "warp-command",
    "MinIO warp command line with the trace's mix, object size and concurrency",
    _warp,
)
ElbenchoCommand = partial(
    Configuration,
    "elbencho-command",
    "elbencho command line with the trace's files, block size and concurrency",
    _elbencho,
)
