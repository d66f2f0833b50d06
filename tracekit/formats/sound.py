"""Turns a log's columns into valid ops: the last step of every importer.

Rows that cannot be storage requests (negative sizes, times out of range, no object) are
counted as bad lines and dropped; nothing is repaired or guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracekit.errors import ErrorClass, UsageError
from tracekit.formats.base import Lines, Tally
from tracekit.redaction import is_secret_name, redact_value
from tracekit.schema import OP_KINDS, OPS
from tracekit.uri import from_name

__all__ = [
    "MAX_INT",
    "OP_WORDS",
    "Streams",
    "batch_of",
    "error_class",
    "map_dictionary",
    "op_kinds",
    "sound_batch",
    "uris",
]

MAX_INT = 2**62
"""The largest time, size or offset taken from a log: sums and differences still fit 64 bits."""

LEFT_OUT = "-"
"""In an op column: this row is left out, and has been counted."""

OP_WORDS = {
    **{kind: kind for kind in OP_KINDS},
    **dict.fromkeys(
        ("r", "rs", "rm", "ra", "get_range", "getrange", "pread", "pread64", "readv", "preadv", "preadv2"),
        "read",
    ),
    **dict.fromkeys(("getobject", "download", "load"), "get"),
    **dict.fromkeys(
        ("w", "ws", "wm", "wfs", "pwrite", "pwrite64", "writev", "pwritev", "pwritev2", "append"), "write"
    ),
    **dict.fromkeys(("post", "multipart", "upload", "putobject", "store"), "put"),
    **dict.fromkeys(("putpart", "uploadpart", "upload_part"), "part"),
    **dict.fromkeys(("completemultipartupload", "complete_multipart_upload"), "complete"),
    **dict.fromkeys(("abortmultipartupload", "abort_multipart_upload"), "abort"),
    **dict.fromkeys(("fsync", "fdatasync", "datasync", "syncfs", "sync_file_range", "flush"), "sync"),
    **dict.fromkeys(("ftruncate",), "truncate"),
    **dict.fromkeys(("move", "mv"), "rename"),
    **dict.fromkeys(("copyobject", "copy_object"), "copy"),
    **dict.fromkeys(("head", "open", "headobject", "getattr"), "stat"),
    **dict.fromkeys(("listobjects", "listobjectsv2", "readdir"), "list"),
    **dict.fromkeys(("del", "unlink", "remove", "deleteobject", "deleteobjects"), "delete"),
    **dict.fromkeys(("fadvise", "prefetch"), "hint"),
    **dict.fromkeys(("retention", "commit"), LEFT_OUT),
}
"""Other tools' words (in lower case) for the kinds of op; warp's last two move no object data."""

_PLAIN = r"^[\w:/.+,-]*$"
_TELLING = (
    r"(?i)akia|asia|eyj|hf_|gh[pousr]_|github_pat_|glpat-|xox|sig|cred|pass|secret|token|auth|cookie|connection|key|pwd|sas|"
    r"jwt|bearer|user|-u"
)
"""Texts that are plain and have nothing telling, such as ids and addresses, hold no secret: they need not be looked into."""

_RANGES = (
    *(field.name for field in OPS if pa.types.is_integer(field.type) and field.name != "t_submit"),
    "object_size",
)
_OF_RANGES = ("read", "write", "part")
"""Kinds of op that cannot move more than `len`."""
_INT32 = tuple(field.name for field in OPS if field.type == pa.int32())
_INTEGERS = (*(field.name for field in OPS if pa.types.is_integer(field.type)), "object_size")


def sound_batch(columns: Mapping[str, pa.Array], lines: Lines, tally: Tally) -> pa.RecordBatch:
    """The rows of `columns` that can be ops; `lines` are their line numbers. The rest is counted."""
    keep = np.ones(len(lines), bool)
    uri = columns["uri"]
    if "op" in columns and (gone := _equal(columns["op"], LEFT_OUT)) is not None:
        keep &= ~gone
    for name in ("t_submit", "uri", "op"):
        if name in columns:
            _drop(keep, lines, _nulls(columns[name]), f"has no {name} that can be read", tally)
    _drop(keep, lines, _equal(uri, ""), "names no object", tally)
    for name in ("t_submit", *_RANGES):
        if name in columns and pa.types.is_integer(columns[name].type):
            top = 2**31 - 1 if name in _INT32 else MAX_INT
            _drop(keep, lines, _outside(columns[name], top), f"its {name} is negative or out of range", tally)
    if "bytes" in columns and "len" in columns:
        more = _mask(pc.greater(columns["bytes"], columns["len"]))
        if "op" in columns and more.any():
            more &= _mask(pc.is_in(columns["op"].cast(pa.string()), pa.array(_OF_RANGES)))
        _drop(keep, lines, more, "it moved more bytes than were asked for", tally)
    safe = [_without_secrets(name, column) for name, column in columns.items()]
    batch = pa.RecordBatch.from_arrays(safe, names=list(columns))
    return batch if keep.all() else batch.filter(pa.array(keep))


def batch_of(columns: Mapping[str, Sequence[object]], lines: Sequence[int], tally: Tally) -> pa.RecordBatch:
    """Return the rows of `columns`, lists of Python values, that can be ops; see `sound_batch`."""
    arrays = {}
    for name, values in columns.items():
        if name in _INTEGERS:
            arrays[name] = _integers(values)
        else:
            arrays[name] = pa.array(values, pa.string()).dictionary_encode()
    return sound_batch(arrays, np.array(lines, np.int64), tally)


def _integers(values: Sequence[object]) -> pa.Array:
    """Return numbers as an array; one that has more than 64 bits becomes -1, which is invalid everywhere."""
    try:
        return pa.array(values, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        return pa.array([v if v is None or abs(v) < 2**63 else -1 for v in values], pa.int64())  # type: ignore[arg-type]


def map_dictionary(column: pa.Array, values: Sequence[str | None]) -> pa.Array:
    """`column` (dictionary-encoded) with `values` in place of its dictionary's; None is null."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    place = {value: index for index, value in enumerate(distinct)}
    new = pa.array([None if value is None else place[value] for value in values], pa.int32())
    indices = new.take(column.indices) if len(values) else pa.nulls(len(column), pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))


def uris(names: pa.Array, base: str | None) -> pa.Array:
    """Return `uri.from_name` of each name; null for null and for the empty name."""
    if not base and pc.all(pc.match_substring_regex(names, "^[A-Za-z][A-Za-z0-9+.-]+://")).as_py():
        return names
    return pa.array([from_name(name, base) if name else None for name in names.to_pylist()], pa.string())


def op_map(text: str | None) -> dict[str, str]:
    """Return what `28=read;2a=write` (or with commas) says, with words in lower case and tracekit's kinds of op.

    `none` leaves such ops out. Raises UsageError for a target that is not a kind of op.
    """
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in re.split("[;,]", (text or "").removeprefix("op:")))):
        word, equals, kind = (part.strip().lower() for part in item.rpartition("="))
        if not word or not equals or (kind != "none" and kind not in OP_WORDS):
            raise UsageError(
                f"map_ops={text!r}: {item!r} is not a mapping",
                f"write WORD=KIND,WORD=KIND, where KIND is one of {', '.join((*OP_KINDS, 'none'))}",
            )
        found[word] = LEFT_OUT if kind == "none" else OP_WORDS[kind]
    return found


def op_kinds(column: pa.Array, lines: Lines, tally: Tally, given: Mapping[str, str]) -> pa.Array:
    """Return the kinds of op that a log's words mean, by `given` before our own list.

    A word that is in neither is a bad line, named and counted; `LEFT_OUT` stands for its rows.
    """
    words = [str(word).strip() for word in column.dictionary.to_pylist()]
    kinds = [given.get(word.lower()) or OP_WORDS.get(word.lower()) for word in words]
    for place, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        if kind is None or kind == LEFT_OUT:
            rows = _mask(pc.equal(column.indices, pa.scalar(place, column.indices.type)))
            if kind is None and rows.any():
                tally.bad_lines(lines[rows], f"unknown op {word[:40]!r}")
                tally.unknown_ops[word[:40]] += int(rows.sum())
            elif rows.any():
                tally.left_out[word[:40]] += int(rows.sum())
    return map_dictionary(column, [LEFT_OUT if kind is None else kind for kind in kinds])


def error_class(message: str | None) -> ErrorClass | None:
    """Return the class of another tool's error message; None if there is no message."""
    return None if message is None or not message.strip() else ErrorClass.from_text(message)


class Streams:
    """Numbers for names of streams (threads, clients), in order of first appearance, over all blocks."""

    def __init__(self, numbers: dict[object, int] | None = None) -> None:
        self._numbers = {} if numbers is None else numbers

    def number(self, name: object) -> int:
        """The number of one name."""
        return self._numbers.setdefault(name, len(self._numbers))

    def numbers(self, column: pa.Array) -> pa.Array:
        """The numbers of a column of names; null stays null."""
        coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = pa.array([self.number(name) for name in coded.dictionary.to_pylist()], pa.int32())
        return codes.take(coded.indices) if len(codes) else pa.nulls(len(column), pa.int32())


def _without_secrets(name: str, column: pa.Array) -> pa.Array:
    """Return a column that the schema does not have, such as one of URLs, without secrets in its texts."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if name in OPS.names or not pa.types.is_string(kind):
        return column
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    texts = coded.dictionary
    if is_secret_name(name):
        doubtful = np.ones(len(texts), bool)
    else:
        plain = pc.match_substring_regex(texts, _PLAIN)
        doubtful = _mask(pc.or_(pc.invert(plain), pc.match_substring_regex(texts, _TELLING)))
    if not doubtful.any():
        return column
    values = texts.to_pylist()
    for place in np.flatnonzero(doubtful):
        values[place] = next(iter(redact_value({name: values[place]}).values()))
    return map_dictionary(coded, values)


def _drop(
    keep: npt.NDArray[np.bool_], lines: Lines, bad: npt.NDArray[np.bool_] | None, why: str, tally: Tally
) -> None:
    if bad is None:
        return
    fresh = bad & keep
    if fresh.any():
        tally.bad_lines(lines[fresh], why)
        keep &= ~bad


def _nulls(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    return _mask(pc.is_null(column)) if column.null_count else None


def _equal(column: pa.Array, text: str) -> npt.NDArray[np.bool_] | None:
    if not pa.types.is_dictionary(column.type):
        return _mask(pc.equal(column, text))
    place = pc.index(column.dictionary, text).as_py()
    return _mask(pc.equal(column.indices, pa.scalar(place, column.indices.type))) if place >= 0 else None


def _outside(column: pa.Array, top: int) -> npt.NDArray[np.bool_] | None:
    low_high = pc.min_max(column).as_py()
    if low_high["min"] is None or (low_high["min"] >= 0 and low_high["max"] <= top):
        return None
    kind = column.type
    if pa.types.is_unsigned_integer(kind):
        return _mask(pc.greater(column, pa.scalar(top, kind)))
    wrong = pc.less(column, pa.scalar(0, kind))
    if low_high["max"] > top:
        wrong = pc.or_(wrong, pc.greater(column, pa.scalar(top, kind)))
    return _mask(wrong)


def _mask(column: pa.Array) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = np.asarray(pc.fill_null(column, False))
    return mask
