"""Data of one's own: the rows of a file or a folder, those to test on parted from those to train on once and for all."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np

from zolab.tasks.data import Table
from zolab.tasks.files import SUFFIXES, read_rows

SHARE, MOST = 5, 2000  # one row in five of a file is held out, but no more than so many
ENDS = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Parts:
    """Rows that were read once. A `DataSource`; dev examples come from the training part where there is none for validation."""

    train: Table
    test: Table
    validation: Table | None = None
    held_out: str = field(default="test", init=False)

    @property
    def dev(self) -> str:
        """The split that dev examples come from."""
        return "validation" if self.validation else "train"

    @property
    def tables(self) -> list[Table]:
        return [self.train, self.test, *([self.validation] if self.validation else [])]

    def rows(self, split: str) -> Table:
        return getattr(self, split)


@dataclass(frozen=True)
class LocalFile:
    """A file with named columns, for the `source` of a task: JSON lines, comma-separated values or parquet.

    Rows of a file that are equal in the columns that are read are kept once. A fifth of a single file's rows, 2,000 at most, is
    held out, the same ones for every seed; train and dev examples are drawn from the others. A folder has files of its own,
    named `train`, `test` and, for dev examples, perhaps `validation`. Numbers in a column of texts are written out.

    Args:
        path: of the file, which ends in .jsonl, .csv or .parquet, or of the folder.
        texts, label, labels: the columns that the template reads, as for `Table`; labels may be written as texts.
    """

    path: str
    texts: tuple[str, ...]
    label: str = "label"
    labels: tuple[int, ...] = ()
    held_out: str = "test"

    @property
    def dev(self) -> str:
        """The split that dev examples come from."""
        return "validation" if _file_of(Path(self.path).expanduser(), "validation") else "train"

    def rows(self, split: str) -> Table:
        """All rows of a split, read anew; errors as for `read`."""
        return self.read().rows(split)

    def read(self) -> Parts:
        """Read the file or the folder.

        Raises:
            ValueError: as for `Table`; a file is damaged or too large, or a single one has too few rows.
            OSError: there is no such file, or a folder lacks one.
        """
        path = Path(self.path).expanduser()
        if path.is_dir():
            files = [_file_of(path, split) for split in ("train", "test", "validation")]
            if not files[0] or not files[1]:
                message = "train" if not files[0] else "test"
                raise FileNotFoundError(f"{self.path} has no file {message} that ends in {ENDS}; add it.")
            parts = Parts(*(self._table(file, str(file)) for file in files if file))
            if seen := len(self._texts_of(parts.test) & self._texts_of(parts.train)):
                warnings.warn(
                    f"{self.path}: {seen} texts of test are in train, too; take them out of one of the two.", stacklevel=2
                )
            return parts
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{self.path} must be a folder or a file that ends in {ENDS}; convert it.")
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}; give the path of one that ends in {ENDS}.")
        table = self._table(path, self.path)
        size = min(len(table) // SHARE, MOST)
        if not size:
            message = f"{self.path} has {len(table)} different rows in {', '.join(table.rows.column_names)}"
            raise ValueError(f"{message}, where at least {SHARE} are needed: one in {SHARE} is held out; add rows.")
        order = np.random.RandomState(0).permutation(len(table))
        return Parts(_part(table, sorted(order[size:])), _part(table, sorted(order[:size])))

    def _texts_of(self, table: Table) -> set[tuple[str, ...]]:
        """The texts of each row of a table, without space around them."""
        columns = cast(dict[str, list[Any]], table.rows[:])
        names = [column for column in columns if column in {text.split(".")[0] for text in self.texts}]
        return {tuple(str(value).strip() for value in row) for row in zip(*(columns[name] for name in names), strict=True)}

    def _table(self, path: Path, origin: str) -> Table:
        """The different rows of a file, in its order; space around a text makes no difference."""
        rows = read_rows(path)
        Table(rows, origin, self.texts, self.label, self.labels)  # has the columns
        needed = dict.fromkeys(column.split(".")[0] for column in (*self.texts, *([self.label] if self.labels else [])))
        columns = {name: list(map(_written, rows[name][:]) if name in self.texts else rows[name][:]) for name in needed}
        if self.labels:
            known = {str(label): label for label in self.labels}
            columns[self.label] = [known.get(v.strip(), v) if isinstance(v, str) else v for v in columns[self.label]]
        first: dict[str, int] = {}
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            first.setdefault(repr([value.strip() if isinstance(value, str) else value for value in row]), number)
        numbers = list(first.values())
        distinct = datasets.Dataset.from_dict({name: [values[i] for i in numbers] for name, values in columns.items()})
        return Table(distinct, origin, self.texts, self.label, self.labels, numbers)


def _file_of(folder: Path, split: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)


def _part(table: Table, chosen: Sequence[int]) -> Table:
    columns = {name: [values[i] for i in chosen] for name, values in cast(dict[str, list[Any]], table.rows[:]).items()}
    return replace(table, rows=datasets.Dataset.from_dict(columns), numbers=[table.numbers[i] for i in chosen])


def _written(value: Any) -> Any:
    """A number as a text; one that is none, such as NaN, like a value that is missing."""
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return str(value) if isinstance(value, int) else value
