"""Inputs that once failed, kept small: each is refused in one sentence now, or gives what was written."""

from pathlib import Path

import pytest
from fuzz.campaign import LOADERS
from fuzz.trials import Case, Trials

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
LARGEST = 8192  # bytes of an input


def inputs(loader):
    """Each input of a loader: its name, the file that it stands for, and its content."""
    for folder in sorted((CORPUS / loader).iterdir()):
        (file,) = (path for path in folder.rglob("*") if path.is_file())
        yield folder.name, str(file.relative_to(folder)), file.read_bytes()


@pytest.mark.parametrize("loader", sorted(folder.name for folder in CORPUS.iterdir()))
def test_what_once_failed(loader):
    trials, kept = Trials(LOADERS[loader]), list(inputs(loader))
    assert all(file in trials.loader.files and len(content) <= LARGEST for _, file, content in kept)
    cases = [Case(trials.loader, 0, number, content=kept[number][1:]) for number in range(len(kept))]
    outcomes = list(trials.run(cases))
    wrong = [f"{name}: {outcome.kind}: {outcome.message}" for (name, *_), outcome in zip(kept, outcomes, strict=True)]
    assert not [line for line, outcome in zip(wrong, outcomes, strict=True) if outcome.kind not in ("refused", "same")]
    assert len(outcomes) == len(kept) > 0
