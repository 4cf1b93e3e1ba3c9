"""What a refusal must be: one sentence, soon, in little memory."""

import time

import pytest

from zolab.records import peak_memory, reset_peak_memory

SENTENCE = 1000  # characters
SECONDS = 5.0
MEMORY = 200_000_000  # bytes


def refused(load, match):
    """Load, which must raise one sentence within the limits."""
    reset_peak_memory()
    before, began = peak_memory(), time.process_time()
    with pytest.raises((ValueError, OSError), match=match) as excinfo:
        load()
    assert time.process_time() - began < SECONDS
    assert peak_memory() - before < MEMORY
    assert 0 < len(str(excinfo.value)) < SENTENCE
    assert "\n" not in str(excinfo.value)
