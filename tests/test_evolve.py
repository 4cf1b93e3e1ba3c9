"""Evolution of sigma: two whole runs tell a slope; what it remembers, what it makes, what it refuses."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import budgeted

from zolab.__main__ import main
from zolab.l2l import Evolution, EvolveConfig, evolve
from zolab.l2l.base_weights import BaseWeights
from zolab.l2l.evolution import WAYS, _Runs
from zolab.models import load_model
from zolab.optim import MeZO, ZOFineTuner
from zolab.pertnn import PertNN
from zolab.probe.blocks import weights_of
from zolab.records import load_record, save_record
from zolab.runs.finetune import batch_at
from zolab.studies.gain_transfer import points_at
from zolab.tasks import load_task

MAP = Path(__file__).resolve().parent.parent / "figures" / "records" / "06_gain_map.json"
SMALL = EvolveConfig(pairs=3, steps=3, batch_size=2, train=8, dev=4, lr=1e-3)


def test_it_walks_to_the_minimum_of_a_noisy_function():
    goal, noise = np.linspace(-1, 1, 8), np.random.default_rng(1)
    search = Evolution(8, spread=0.3, rate=0.03, seed=0)
    for _ in range(600):
        search.tell(*(float(((x - goal) ** 2).sum() + 0.1 * noise.standard_normal()) for x in search.pair()))
    assert np.abs(search.mean() - goal).max() < 0.3
    assert np.linalg.norm(search.mean() - goal) < np.linalg.norm(search.path[-1] - goal) < np.linalg.norm(goal)


def test_units_do_not_matter_and_a_broken_run_does_not_decide_alone():
    def path(factor, broken):
        search = Evolution(3, spread=0.3, rate=0.1, seed=2)
        for number in range(6):
            plus, minus = (factor * float((x**2).sum() + x[0]) for x in search.pair())
            search.tell(broken if number == 4 else plus, minus)
        return np.array(search.path)

    np.testing.assert_allclose(path(1.0, math.inf), path(100.0, math.inf))
    np.testing.assert_allclose(path(1.0, math.inf)[:6], path(1.0, 1e6)[:6])
    np.testing.assert_allclose(path(1.0, math.inf), path(1.0, math.nan))
    both = Evolution(3, spread=0.3, rate=0.1, seed=2)
    both.tell(math.inf, math.nan)
    assert not both.center.any()
    assert len(both.path) == 2


def test_tasks_are_compared_each_with_itself():
    search = Evolution(1, spread=0.3, rate=0.1, seed=0)
    search.tell(1000.0, 0.0, group=0)
    (before,) = search.center
    search.tell(0.001, 0.0, group=1)
    direction = np.random.default_rng((0, 2)).standard_normal(1)  # the first pair has (0, 1)
    assert search.center - before == pytest.approx(-0.1 * direction)


def test_a_run_where_sigma_is_one_is_mezo(tmp_path):
    runs = _Runs(replace(SMALL, seed=7))
    base = BaseWeights(weights_of(runs.model), tmp_path / "base.bin")
    for number in (0, 1):
        model, tokenizer = load_model(SMALL.model)
        task = load_task(SMALL.tasks)
        model.eval()
        optimizer = MeZO(model.named_parameters(), lr=SMALL.lr * math.exp(0.5), seed=7 + number)
        examples = task.sample(0, 8, 4, 1)
        for step in range(SMALL.steps):
            batch = task.encode(tokenizer, batch_at(examples.train, 2, 7 + number, step))
            optimizer.step(lambda batch=batch, model=model, task=task: task.loss(model, batch))
        expected = task.evaluate(model, tokenizer, examples.dev).loss
        assert runs.final_loss(number, np.array([0.0] * 20 + [0.5]), base) == expected


def test_a_run_that_breaks_counts_as_infinite(tmp_path):
    runs = _Runs(SMALL)
    base = BaseWeights(weights_of(runs.model), tmp_path / "base.bin")
    assert runs.final_loss(0, np.array([0.0] * 20 + [200.0]), base) == math.inf
    assert math.isfinite(runs.final_loss(0, np.zeros(21), base))


def test_it_goes_on_where_it_stopped_and_makes_a_pertnn(tmp_path):
    torch.set_num_threads(1)
    config = replace(SMALL, tasks="reviews_sentence,reviews_writer")
    whole = evolve(config, tmp_path / "whole", progress=False)
    (tmp_path / "torn").mkdir()
    lines = (tmp_path / "whole" / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn" / "log.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    again = evolve(config, tmp_path / "torn", progress=False)
    assert again.record["result"] == whole.record["result"]
    assert {file.name for file in (tmp_path / "torn").iterdir()} == {
        "card.json",
        "log.jsonl",
        "pertnn.safetensors",
        "record.json",
    }
    assert len(whole.record["result"]["pairs"]) == 3
    model, _ = load_model(config.model)
    loaded = PertNN.load(tmp_path / "whole", model)
    assert loaded.digest() == whole.pertnn.digest()
    sigma = np.array(list(whole.record["result"]["sigma"].values()))
    assert (sigma**2 @ np.array(loaded.blocks.sizes)) == pytest.approx(sum(loaded.blocks.sizes), rel=1e-5)
    assert len(set(sigma.round(6))) == 20
    optimizer = ZOFineTuner.from_pretrained(tmp_path / "whole", model, lr=whole.record["result"]["lr"])
    optimizer.step(lambda: sum(p.square().sum() for p in model.parameters()))
    with pytest.raises(ValueError, match="holds an evolution with other settings"):
        evolve(replace(config, rate=0.1), tmp_path / "whole", progress=False)
    assert not (tmp_path / "whole" / "base.bin").exists()


def test_a_gain_map_gives_the_first_sigma(tmp_path):
    settings = {"start": str(MAP), "rule": "kind", "weight": 0.75}
    closed = evolve(replace(SMALL, tasks="reviews_next", pairs=0, **settings), tmp_path / "closed", progress=False)
    sigma = closed.record["result"]["sigma"]
    assert closed.record["result"]["lr"] is None
    (point,) = [p for p in points_at(load_record(MAP), 0) if p["task"] == "reviews_next"]
    ratios = {name: max(row["G"][0], 0) / row["V"][0] for name, row in point["kind"].items()}
    sizes = {name: row["size"] for name, row in point["kind"].items()}
    mean = sum(sizes[name] * ratios[name] for name in sizes) / sum(sizes.values())
    assert set(sigma) == set(sizes)
    assert {name: s**2 for name, s in sigma.items()} == pytest.approx(
        {name: 0.25 + 0.75 * ratios[name] / mean for name in sizes}, rel=1e-4
    )
    both = evolve(replace(SMALL, tasks="reviews_next,reviews_sentence", pairs=2, **settings), tmp_path / "both", progress=False)
    (start,) = [json.loads(line) for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines() if '"start"' in line]
    first, last = np.array(start["first"]), np.array(list(both.record["result"]["sigma"].values()))
    assert first == pytest.approx(budgeted(first, PertNN.read(tmp_path / "both").blocks.sizes))
    assert 1e-3 < np.abs(np.log(last / first)).max() < 0.5
    halves = [
        evolve(replace(SMALL, tasks="reviews_sentence", pairs=0, start=str(MAP), weight=w), tmp_path / str(w))
        for w in (0.0, 1.0)
    ]
    least = [min(run.record["result"]["sigma"].values()) for run in halves]
    assert least[0] == 1
    assert least[1] < 0.5


def test_a_map_that_changed_is_refused(tmp_path):
    copy = tmp_path / "map.json"
    copy.write_bytes(MAP.read_bytes())
    config = replace(SMALL, start=str(copy), pairs=1)
    evolve(config, tmp_path / "out", progress=False)
    record = load_record(MAP)
    record["result"]["points"][0]["halves"][0][0].reverse()
    save_record(record, copy)
    with pytest.raises(ValueError, match="is no longer what"):
        evolve(config, tmp_path / "out", progress=False)
    del record["result"]["points"][0]["halves"]
    save_record(record, copy)
    with pytest.raises(ValueError, match=r"map\.json is damaged"):
        evolve(config, tmp_path / "other", progress=False)


def test_a_search_goes_on_although_a_closed_forms_last_digits_differ(tmp_path, monkeypatch):
    """As with another number of threads, where its solver ends elsewhere."""
    config = replace(SMALL, start=str(MAP), scales="best", pairs=2)
    whole = evolve(config, tmp_path / "whole", progress=False).record["result"]
    lines = (tmp_path / "whole" / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "log.jsonl").write_bytes(b"".join(lines[:2]))
    best = WAYS["best"]
    monkeypatch.setitem(WAYS, "best", lambda *given: best(*given) * (1 + 1e-6))
    assert evolve(config, tmp_path / "torn", progress=False).record["result"] == whole


@pytest.mark.parametrize("rule", ["layer", "kind"])
def test_blocks_are_told_by_their_names_whatever_their_order_in_a_map(tmp_path, rule):
    """A seal holds for keys in any order."""
    config, copy, record = replace(SMALL, rule=rule, start=str(MAP)), tmp_path / "map.json", load_record(MAP)
    for point in record["result"]["points"]:
        point[rule] = dict(sorted(point[rule].items(), reverse=True))
    save_record(record, copy)
    np.testing.assert_allclose(_Runs(replace(config, start=str(copy))).first, _Runs(config).first, rtol=1e-12)
    record["result"]["points"][0][rule].popitem()
    save_record(record, copy)
    with pytest.raises(ValueError, match=r"map\.json is damaged: its numbers are not those of each block"):
        _Runs(replace(config, start=str(copy)))


def test_a_folder_is_no_gain_map(tmp_path):
    with pytest.raises(OSError, match="is not a file with content of its own; give a regular file"):
        _Runs(replace(SMALL, start=str(tmp_path)))


def test_runs_are_calibrated_and_balanced_where_there_are_classes(tmp_path):
    config = replace(SMALL, tasks="reviews_sentence,reviews_next", train=64, dev=100, calibrate=32, balanced=True)
    runs = _Runs(config)
    assert runs.balanced == [True, False]
    classes, answers = runs.tasks
    assert len(classes.offsets) == 2
    assert answers.offsets == ()
    base, plain = BaseWeights(weights_of(runs.model), tmp_path / "base.bin"), _Runs(replace(config, calibrate=0))
    before, zeros = BaseWeights(weights_of(plain.model), tmp_path / "before.bin"), np.zeros(21)
    with_offsets, without = (of.final_loss(0, zeros, there) for of, there in ((runs, base), (plain, before)))
    assert with_offsets < 0.75 < 1 < without
    assert runs.final_loss(1, zeros, base) == plain.final_loss(1, zeros, before)


def test_broken_runs_are_kept_and_replayed(tmp_path):
    config = replace(SMALL, spread=100.0, pairs=2)
    first = evolve(config, tmp_path, progress=False).record["result"]
    assert any(None in pair for pair in first["pairs"])
    assert evolve(config, tmp_path, progress=False).record["result"] == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": -1}, "pairs must be at least 0, got -1"),
        ({"pairs": 0}, "without pairs of runs there must be a start"),
        ({"scales": "bound"}, "unknown scales 'bound'; choose signal, best"),
        ({"weight": 1.5}, "weight must be at most 1, got 1.5"),
        ({"calibrate": 9}, "calibrate 9 exceeds the 8 training examples"),
        (
            {"start": str(MAP), "tasks": "reviews_sentence,rotten_tomatoes"},
            "gain_map.json has no rotten_tomatoes; measure it there",
        ),
        ({"start": str(MAP.with_name("09_tiny.json"))}, "09_tiny.json is no record of a gain map; make one"),
        ({"start": str(MAP), "model": "tiny-reviews-critic"}, "gain_map.json is of another model than tiny-reviews-critic"),
        ({"start": str(MAP), "dtype": "bfloat16"}, "gain_map.json is of another model than tiny-reviews in bfloat16"),
        ({"scales": "best"}, "scales is about what a gain map gives: give a start, or leave it at signal"),
        ({"weight": 0.9}, "weight is about what a gain map gives: give a start"),
        ({"spread": 0.0}, "spread must be > 0, got 0.0"),
        ({"rate": math.nan}, "rate must be > 0, got nan"),
        ({"seed": -1}, "seed and data_seed must be at least 0"),
        ({"rule": "head"}, "unknown rule 'head'; choose"),
        ({"tasks": "reviews_sentence,,"}, "names an empty task"),
        ({"tasks": "reviews_sentence,reviews_sentence"}, "names a task twice"),
        ({"batch_size": 9}, "reviews_sentence has 8 training examples, fewer than batch_size 9"),
    ],
)
def test_wrong_settings_are_refused_before_any_run(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        evolve(replace(SMALL, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path, capsys):
    words = [
        "--pairs",
        "1",
        "--steps",
        "1",
        "--batch_size",
        "2",
        "--train",
        "4",
        "--dev",
        "2",
        "--rule",
        "kind",
        "--dtype",
        "bfloat16",
    ]
    assert main(["evolve", "--out", str(tmp_path), *words]) == 0
    output = capsys.readouterr().out
    assert "1 pairs of 1 steps on reviews_sentence" in output
    card = json.loads((tmp_path / "card.json").read_text())
    assert len(card["metrics"]["sigma"]) == 11
    assert card["metrics"]["settings"]["steps"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_base_weights_come_back_to_the_bit(tmp_path, dtype):
    tensors = [torch.randn(3, 5).to(dtype), torch.randn(7).to(dtype), torch.randn(4, 6).to(dtype).t()]
    before = [tensor.clone() for tensor in tensors]
    base = BaseWeights(tensors, tmp_path / "base.bin")
    for tensor in tensors:
        tensor.mul_(3)
    base.put_back()
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))
    with open(tmp_path / "base.bin", "r+b") as file:
        file.truncate(20)
    with pytest.raises(OSError, match="cut short"):
        base.put_back()
    with base:
        pass
    assert not list(tmp_path.iterdir())
