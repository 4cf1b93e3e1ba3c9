"""Rows read from a local file: each time anew and into memory, so that they are never those of an earlier file."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet


def read_rows(path: Path) -> datasets.Dataset:
    """The rows of a file of JSON lines in UTF-8, or of a parquet file.

    Args:
        path: the file, whose suffix is .jsonl or .parquet.

    Raises:
        ValueError: the file is not what its suffix says; the message names the line or the column.
        OSError: it cannot be opened.
    """
    if path.suffix == ".jsonl":
        return _from_lines(path)
    with open(path, "rb") as file:
        try:
            table = parquet.read_table(file)
            table.validate(full=True)  # its texts are UTF-8
            return datasets.Dataset(datasets.table.InMemoryTable(table))
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise _refusal(path, "parquet", error) from error


def _from_lines(path: Path) -> datasets.Dataset:
    rows: list[dict[str, Any]] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_number)
                if not isinstance(row, dict):
                    raise ValueError("it is no object of columns and values")
            except (ValueError, RecursionError) as error:
                raise _refusal(path, f"json, line {number}", error) from error
            rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    found: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in columns}
    for name, values in found.items():
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _refusal(path, f"json, column {name[:40]!r}", error) from error
    return datasets.Dataset.from_dict(found)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _refusal(path: Path, kind: str, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0][:120] or type(error).__name__
    return ValueError(f"{path} cannot be read as {kind} ({reason}); repair or replace it.")
