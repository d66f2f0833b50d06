"""Rows in the forms that machines read: every type that a query can give says what it is."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracekit.formats.rows import as_rows, as_values, write_csv, write_json, write_parquet

# expression -> what JSON holds, what CSV holds
TYPES: dict[str, tuple[Any, str]] = {
    "sum(7::BIGINT)": (7, "7"),
    "170141183460469231731687303715884105727::HUGEINT": (2**127 - 1, str(2**127 - 1)),
    "18446744073709551615::UBIGINT": (2**64 - 1, str(2**64 - 1)),
    "1.50::DECIMAL(10, 2)": (1.5, "1.50"),
    "'NaN'::DOUBLE": (None, "nan"),
    "'-inf'::DOUBLE": (None, "-inf"),
    "NULL": (None, ""),
    "''": ("", ""),
    "'a\"b,c' || chr(10) || 'd'": ('a"b,c\nd', 'a"b,c\nd'),
    "'\\xAA\\x00b'::BLOB": ("\\xAA\\x00b", "\\xAA\\x00b"),
    "make_timestamp_ns(1234567890123456789)": ("2009-02-13 23:31:30.123456789",) * 2,
    "DATE '2024-01-02'": ("2024-01-02", "2024-01-02"),
    "INTERVAL 3 DAY": ("3 days", "3 days"),
    "[1, NULL, 3]": ([1, None, 3], "[1, null, 3]"),
    "['NaN'::DOUBLE]": ([None], "[null]"),
    "{'a': 1, 'b': 'x'}": ({"a": 1, "b": "x"}, '{"a": 1, "b": "x"}'),
    "'y'::ENUM('x', 'y')": ("y", "y"),
    "true": (True, "true"),
}


def query(*expressions: str) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(f"SELECT {', '.join(expressions)}").to_arrow_table()


def as_csv(table: pa.Table, folder: Path, *, safe: bool = False) -> str:
    write_csv(table.to_reader(), folder / "q.csv", safe=safe)
    return (folder / "q.csv").read_bytes().decode()


@pytest.mark.parametrize("expression", list(TYPES))
def test_every_type_has_its_json_csv_parquet_and_table_form(expression: str, tmp_path: Path) -> None:
    table = query(f"{expression} AS it", "1 AS other")
    want_json, want_csv = TYPES[expression]
    write_json(table.to_reader(), tmp_path / "q.json")
    assert json.loads((tmp_path / "q.json").read_text()) == [{"it": want_json, "other": 1}]
    assert next(csv.DictReader(io.StringIO(as_csv(table, tmp_path)))) == {"it": want_csv, "other": "1"}
    write_parquet(table.to_reader(), tmp_path / "q.parquet")
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 1
    assert len(as_values(table)) == 1


def test_columns_of_one_name_are_told_apart_and_none_is_lost(tmp_path: Path) -> None:
    table = query("1 AS a", "2 AS a", "3 AS a_1", "4 AS a")
    (row,) = as_rows(table)
    assert sorted(row.values()) == [1, 2, 3, 4]
    assert row["a"] == 1 and row["a_1"] == 3
    write_parquet(table.to_reader(), tmp_path / "q.parquet")
    assert pq.read_table(tmp_path / "q.parquet").num_columns == 4
    assert as_csv(table, tmp_path) == '"a","a","a_1","a"\n1,2,3,4\n'


def test_json_of_no_batches_and_of_several_is_one_array(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    for rows, batches in ((0, 1), (3, 2)):
        write_json(table.slice(0, rows).to_reader(max_chunksize=batches), tmp_path / "q.json")
        text = (tmp_path / "q.json").read_text()
        assert text == json.dumps(table.slice(0, rows).to_pylist(), indent=2) + "\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "|cmd", "%0", "＝1"])
def test_safe_csv_marks_text_that_a_spreadsheet_would_run(tmp_path: Path, text: str) -> None:
    table = pa.table({text: [text, "a=b", None], "n": [-1, 2, 3]})
    rows = list(csv.reader(io.StringIO(as_csv(table, tmp_path, safe=True), newline="")))
    assert rows == [["'" + text, "n"], ["'" + text, "-1"], ["a=b", "2"], ["", "3"]]
    assert next(csv.reader(io.StringIO(as_csv(table, tmp_path), newline="")))[0] == text
