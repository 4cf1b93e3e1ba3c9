"""The gain map along a run: whether scales from its beginning still gain at its end."""

import copy
from pathlib import Path

import numpy as np
import pytest

from zolab.records import load_record
from zolab.studies.gain_transfer import along_rows, points_at
from zolab.studies.sections import map_section
from zolab.theory.judged import GROUPINGS, halves_of, noise_scales
from zolab.theory.signal import gain

RECORD = Path(__file__).resolve().parent.parent / "figures" / "records" / "06_gain_map.json"


@pytest.fixture
def content():
    """A map with the base model's statistics after 30 steps, too, and with those of another task after 100."""
    content = copy.deepcopy(load_record(RECORD))
    base = list(points_at(content, 0))
    sentence, passage = (next(p for p in base if p["task"] == f"reviews_{name}") for name in ("sentence", "passage"))
    quiet = copy.deepcopy(sentence)
    quiet["total"]["G"] = [1.0, 1.0]
    after = [sentence | {"step": 30}, passage | {"step": 100, "task": "reviews_sentence"}, quiet | {"step": 300}]
    content["result"]["points"] = [sentence, *after]
    return content


def test_scales_from_the_beginning_are_judged_where_the_run_is(content):
    (head, row), points = along_rows(content), content["result"]["points"]
    assert head == ["task", "after 30 steps", "after 100 steps", "after 300 steps"]
    first, later = halves_of(points[0]), halves_of(points[2])
    scales = [noise_scales(half, GROUPINGS["kind"]) for half in first]
    expected = np.mean([gain(half.terms(16), sigma) for half in later for sigma in scales])
    kept, own = row[2].split(" | ")
    assert float(kept) == pytest.approx(expected, abs=0.006)
    assert kept != own
    assert row[3] == "–"


def test_the_page_has_them_where_a_run_was_measured(content):
    title, lines = map_section(content)
    assert title == "Gain map of tiny-reviews"
    assert any("after 100 steps" in line for line in lines)
    content["result"]["points"] = list(points_at(content, 0))
    assert not any("after 100 steps" in line for line in map_section(content)[1])
