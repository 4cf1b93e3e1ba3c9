"""Rows read from a local file: each time anew and into memory, so that they are never those of an earlier file."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet

from zolab.records.files import read_bytes

SUFFIXES = (".jsonl", ".csv", ".parquet")


def read_rows(path: Path) -> datasets.Dataset:
    """The rows of a file of JSON lines or comma-separated values in UTF-8, or of a parquet file.

    Args:
        path: the file, which ends in one of `SUFFIXES`. All values of a .csv are texts; its first line names the columns.

    Raises:
        ValueError: the file is not what its suffix says, is too large or names a column twice; the message names the line, the
            row or the column.
        OSError: it cannot be opened, or is no regular file.
    """
    content = read_bytes(path)
    if path.suffix == ".jsonl":
        return _from_lines(path, content)
    if path.suffix == ".csv":
        return _from_csv(path, content)
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        _check_unique(file.schema_arrow.names)
        table = file.read()
        table.validate(full=True)  # its texts are UTF-8
        return datasets.Dataset(datasets.table.InMemoryTable(table))
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _refusal(path, "parquet", error) from error


def _from_lines(path: Path, content: bytes) -> datasets.Dataset:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number, object_pairs_hook=_object)
            if not isinstance(row, dict):
                raise ValueError("it is no object of columns and values")
        except (ValueError, RecursionError) as error:
            raise _refusal(path, f"json, line {number}", error) from error
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    columns_of: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in columns}
    for name, values in columns_of.items():
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _refusal(path, f"json, column {name[:40]!r}", error) from error
    return datasets.Dataset.from_dict(columns_of)


def _from_csv(path: Path, content: bytes) -> datasets.Dataset:
    rows: list[list[str]] = []
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = [name.strip() for name in next(lines, [])]
        _check_unique(columns)
        for row in filter(None, lines):
            rows.append(row)
            if len(row) != len(columns):
                raise ValueError(f"row {len(rows)} has {len(row)} fields, the first line names {len(columns)} columns")
    except (csv.Error, ValueError) as error:
        place = f" after row {len(rows)}" if isinstance(error, csv.Error) else ""
        raise _refusal(path, f"csv{place}", error) from error
    return datasets.Dataset.from_dict({name: [row[place] for row in rows] for place, name in enumerate(columns)})


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_unique([name for name, _ in pairs])
    return dict(pairs)


def _check_unique(names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{twice[:40]!r} is there twice")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _refusal(path: Path, kind: str, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0][:120] or type(error).__name__
    return ValueError(f"{path} cannot be read as {kind} ({reason}); repair or replace it.")
