"""The published step by hand is MeZO's where nothing is rounded, and is not where weights have two bytes."""

import pytest

from benchmarks.half import published
from zolab.runs.config import Config
from zolab.runs.finetune import finetune


@pytest.mark.parametrize(("dtype", "close"), [("float32", True), ("bfloat16", False)])
def test_it_is_mezos_run_but_for_rounding(tmp_path, dtype, close):
    sizes = {"steps": 12, "train": 64, "dev": 32, "test": 8, "batch_size": 8, "eval_every": 12, "stuck": 0}
    config = Config("tiny-reviews", "reviews_sentence", lr=1e-3, dtype=dtype, seed=1, data_seed=1, probe="in_place", **sizes)
    loss, seconds = published(config)
    record = finetune(config, tmp_path / "run", progress=False).record
    ours = [entry["loss"] for entry in record["evaluations"] if entry["split"] == "dev"][-1]
    assert (abs(loss - ours) < 1e-4) is close
    assert len(seconds) == 12
