"""create_dataset: samples and their order, from directories, globs, lists and records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracekit.errors import BackendError, UsageError
from tracekit.loader.dataset import create_dataset
from tracekit.loader.options import LoaderOptions
from tracekit.recorder import Recorder
from tracekit.store.reader import open_reader


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name, size in {
        "a/0.bin": 10, "a/1.bin": 25, "a/deep/2.bin": 0, "b/3.bin": 7, "b/3.txt": 5, "top.bin": 1, "x[1].bin": 3,
    }.items():  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def names(uri: object, tree: Path, **options: object) -> list[str]:
    with create_dataset(uri, **options) as dataset:  # type: ignore[arg-type]
        return [sample.uri.removeprefix(f"file://{tree}/") for sample in dataset]


def test_a_directory_gives_all_files_below_it_in_uri_order(tree: Path) -> None:
    expected = ["a/0.bin", "a/1.bin", "a/deep/2.bin", "b/3.bin", "b/3.txt", "top.bin", "x[1].bin"]
    assert names(f"file://{tree}", tree) == expected
    assert names(str(tree), tree) == expected
    dataset = create_dataset(str(tree), {"batch_size": 3})
    assert len(dataset) == 7
    assert dataset.total_bytes == 51
    assert [sample.sample_id for sample in dataset] == list(range(7))
    with pytest.raises(IndexError):
        dataset[7]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.bin", ["top.bin", "x[1].bin"]),
        ("**/*.bin", ["a/0.bin", "a/1.bin", "a/deep/2.bin", "b/3.bin", "top.bin", "x[1].bin"]),
        ("*/?.bin", ["a/0.bin", "a/1.bin", "b/3.bin"]),
        ("a/**", ["a/0.bin", "a/1.bin", "a/deep/2.bin"]),
        ("[ab]/[!0].bin", ["a/1.bin", "b/3.bin"]),
        ("b/3.*", ["b/3.bin", "b/3.txt"]),
        ("top.bin", ["top.bin"]),
        ("x[1].bin", ["x[1].bin"]),
    ],
)
def test_a_glob_keeps_what_it_matches(tree: Path, glob: str, expected: list[str]) -> None:
    assert names(f"file://{tree}/{glob}", tree) == expected


def test_sample_bytes_cuts_each_file_into_records(tree: Path) -> None:
    dataset = create_dataset(f"file://{tree}/a", sample_bytes=10)
    assert [(Path(s.uri).name, s.offset, s.length, s.whole) for s in dataset] == [
        ("0.bin", 0, 10, True),
        ("1.bin", 0, 10, False),
        ("1.bin", 10, 10, False),
        ("1.bin", 20, 5, False),
        ("2.bin", 0, 0, True),
    ]


def test_an_empty_dataset_is_reported_in_one_line(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for uri in (f"file://{tmp_path}/empty", f"file://{tree}/*.jpg"):
        with pytest.raises(BackendError, match="no samples found") as caught:
            create_dataset(uri)
        assert caught.value.error_class == "not_found"
    with pytest.raises(BackendError, match="No such file"):
        create_dataset(f"file://{tmp_path}/missing")
    with pytest.raises(BackendError, match="No such file"):
        create_dataset(f"file://{tmp_path}/missing/*.bin")
    with pytest.raises(UsageError, match="unknown scheme 'ftp'"):
        create_dataset("ftp://bucket/x")
    with pytest.raises(UsageError, match="endpont"):
        create_dataset(f"file://{tree}", endpont="http://localhost:1")  # type: ignore[call-arg]


def test_a_file_system_without_o_direct_is_refused_before_any_run() -> None:
    for uri, options in (
        ("direct:///proc/sys/kernel/ostype", LoaderOptions()),
        ("file:///proc/sys/kernel/ostype", LoaderOptions(page_cache_mode="direct_io")),
    ):
        with pytest.raises(BackendError, match="no O_DIRECT"):
            create_dataset(uri, options)


def test_listing_is_an_op_of_the_trace(tree: Path, tmp_path: Path) -> None:
    with Recorder(tmp_path / "trace") as recorder:
        create_dataset(f"file://{tree}/*.bin", recorder=recorder)
        with pytest.raises(BackendError):
            create_dataset(f"file://{tmp_path}/missing", recorder=recorder)
    rows = (
        open_reader(tmp_path / "trace")
        .query("SELECT op, uri, latency > 0 AS timed, error FROM ops")
        .to_pylist()
    )
    assert rows == [
        {"op": "list", "uri": f"file://{tree}", "timed": True, "error": None},
        {"op": "list", "uri": f"file://{tmp_path}/missing", "timed": True, "error": "not_found"},
    ]


def test_paths_and_lists_of_sources_are_datasets(tree: Path) -> None:
    assert names(tree / "a", tree) == ["a/0.bin", "a/1.bin", "a/deep/2.bin"]
    assert names([f"file://{tree}/b", tree / "a"], tree) == [
        "b/3.bin",
        "b/3.txt",
        "a/0.bin",
        "a/1.bin",
        "a/deep/2.bin",
    ]
    assert names((source for source in (tree / "*.bin", f"{tree}/**/*.txt")), tree) == [
        "top.bin", "x[1].bin", "b/3.txt",
    ]  # fmt: skip
    dataset = create_dataset([tree / "a", tree / "b"])
    assert dataset.uri == f"file://{tree}/a, file://{tree}/b"
    assert [dataset[index].uri for index in range(len(dataset))] == dataset.uris


def test_an_object_that_several_sources_list_is_one_sample(tree: Path) -> None:
    assert names([tree / "a", tree / "a/1.bin", f"{tree}/a/*.bin"], tree) == [
        "a/0.bin",
        "a/1.bin",
        "a/deep/2.bin",
    ]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "an empty list"), ([""], "an empty URI"), ("", "an empty URI"), (7, "uri=7 is not"), ([b"/x"], "is not"),
        (["/data", "s3://bucket"], "the schemes file, s3"), (None, "uri=None is not"),
    ],
)  # fmt: skip
def test_an_invalid_source_is_refused_in_one_line(sources: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        create_dataset(sources)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_links_to_nowhere_are_skipped_and_counted(tree: Path) -> None:
    (tree / "a" / "self").symlink_to(tree / "a" / "self")
    (tree / "a" / "gone").symlink_to(tree / "no-such-file")
    (tree / "a" / "through").symlink_to(tree / "top.bin" / "x")
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "fine").symlink_to(tree / "top.bin")
    with create_dataset(tree / "a") as dataset:
        listed = [Path(uri.removeprefix("file://")).name for uri in dataset.uris]
        assert {"fine", "0.bin"} <= set(listed) and not {"self", "gone", "through"} & set(listed)
        assert len(listed) == len(set(dataset.uris))
        assert dataset.backend.counters["skipped_links"] >= 4


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_a_sample_that_became_a_directory_or_a_pipe_is_named_so(tmp_path: Path, scheme: str) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(b"x" * 4096)
    try:
        dataset = create_dataset(f"{scheme}://{tmp_path}")
    except BackendError as error:
        pytest.skip(str(error))
    for path in paths:
        path.unlink()
    paths[0].mkdir()
    os.mkfifo(paths[1])
    for uri in dataset.uris:
        with pytest.raises(BackendError, match="not a file") as caught:
            dataset.backend.open(uri)
        assert caught.value.error_class == "unsupported"


def test_a_dataset_prints_what_it_is(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(bytes(2048))
    with create_dataset(tmp_path, sample_bytes=1024) as dataset:
        assert repr(dataset) == f"<Dataset file://{tmp_path}: 6 samples, 6 KiB>"
