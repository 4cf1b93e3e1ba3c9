"""Batches with as many examples of each class, offsets fitted before the first step, and what a run is judged by."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from zolab.__main__ import main
from zolab.models import load_model
from zolab.records import load_record
from zolab.runs.batches import batch_at
from zolab.runs.config import Config, forwards
from zolab.runs.finetune import finetune
from zolab.runs.verify import verify
from zolab.studies.compare import learned, learned_table
from zolab.studies.plan import check_plan, configuration
from zolab.studies.results import results
from zolab.studies.run import run_study
from zolab.tasks import Example, load_task
from zolab.tasks.judgement import auc, fit_offsets, judged_by_halves

CONFIG = Config(
    **{"model": "tiny-random-llama", "task": "reviews_sentence", "lr": 1e-3, "steps": 8, "eval_every": 4, "batch_size": 4},
    **{"train": 40, "dev": 16, "test": 16, "balanced": True, "calibrate": 10},
)


def questions(*counts):
    words = tuple(f" {number}" for number in range(len(counts)))
    return [Example(f"{label} {i}", words, label) for label, count in enumerate(counts) for i in range(count)]


@pytest.mark.parametrize(("counts", "size"), [((30, 7), 4), ((9, 5, 21), 4), ((4, 4, 4, 9), 3), ((5, 8, 6), 2)])
def test_batches_are_balanced_in_the_long_run_and_use_every_example(counts, size):
    examples = questions(*counts)
    for step in range(60):
        counts_by_class = Counter(e.answer for at in range(step + 1) for e in batch_at(examples, size, 3, at, balanced=True))
        assert sum(counts_by_class.values()) == size * (step + 1)
        assert max(counts_by_class.values()) - min(counts_by_class[label] for label in range(len(counts))) <= 1
    walked = [e for step in range(400) for e in batch_at(examples, size, 3, step, balanced=True)]
    for label, count in enumerate(counts):  # through permutations: no example comes again before the others came
        own = [e.prompt for e in walked if e.answer == label]
        epochs = [own[i : i + count] for i in range(0, len(own) - count, count)]
        assert all(len(set(epoch)) == count for epoch in epochs)
        assert epochs[0] != epochs[1]
    assert batch_at(examples, size, 4, 0, True) != batch_at(examples, size, 3, 0, True)


def test_other_batches_are_what_they_were():
    examples = questions(5, 6)
    order = np.random.default_rng((7, 1)).permutation(11)
    assert batch_at(examples, 4, 7, 3) == [examples[i] for i in order[4:8]]


def test_offsets_join_loss_answers_and_probabilities_alike():
    task, (model, tokenizer) = load_task("reviews_sentence"), load_model("tiny-random-llama")
    examples = task.sample(0, 8, 4, 12).test
    plain, scores = task.compare(model, tokenizer, examples)
    task.offsets = (0.0, 1.5)
    shifted = torch.tensor(scores + np.array([0.0, 1.5])).log_softmax(1)
    answers = [e.answer for e in examples]
    losses = -shifted[range(12), answers]
    assert task.loss(model, task.encode(tokenizer, examples)).item() == pytest.approx(losses.mean().item(), rel=1e-5)
    evaluation = task.evaluate(model, tokenizer, examples)
    assert evaluation.loss == pytest.approx(losses.mean().item(), rel=1e-5) != plain.loss
    assert evaluation.metric == (shifted.argmax(1).numpy() == answers).mean()
    assert task.predict(model, tokenizer, examples).numpy() == pytest.approx(shifted.exp().numpy(), abs=1e-5)
    assert np.array_equal(task.compare(model, tokenizer, examples)[1], scores)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("balanced") / "run"
    return out, finetune(CONFIG, out, progress=False)


def lasting(record):
    return {key: value for key, value in record.items() if key not in ("timing", "command")}


def test_a_run_fits_its_offsets_first_and_counts_them(finished):
    out, done = finished
    calibration, (model, tokenizer) = done.record["calibration"], load_model(CONFIG.model)
    chosen = batch_at(done.examples.train, 10, 0, 0, balanced=True)
    _, scores = load_task(CONFIG.task).compare(model, tokenizer, chosen, 4)
    assert calibration["offsets"] == pytest.approx(fit_offsets(scores, np.array([e.answer for e in chosen])).tolist())
    assert (calibration["examples"], calibration["forwards"]) == (10, 3)
    assert done.record["result"]["forwards"] == forwards(CONFIG, 8, 40) == 3 + 16
    assert done.task.offsets == tuple(calibration["offsets"])
    first = done.record["evaluations"][0]
    plain = load_task(CONFIG.task).evaluate(model, tokenizer, done.examples.train[:16])
    assert first["judgement"]["loss"] == pytest.approx(plain.loss, rel=1e-5)
    assert first["loss"] == pytest.approx(done.task.evaluate(model, tokenizer, done.examples.train[:16]).loss)
    assert json.loads((out / "offsets.json").read_text())["offsets"] == calibration["offsets"]
    assert all(check.holds for check in verify(out, curve=True))


def test_evaluations_are_judged_beside_plain_numbers(finished):
    _, done = finished
    for split in ("train", "dev", "test"):
        entry = [e for e in done.record["evaluations"] if e["split"] == split][-1]
        examples = getattr(done.examples, split)
        _, scores = done.task.compare(done.model, done.tokenizer, examples[:16])
        answers = np.array([e.answer for e in examples[:16]])
        if entry["step"] == done.record["result"]["best_step"]:
            assert entry["judgement"]["auc"] == pytest.approx(auc(scores[:, 1] - scores[:, 0], answers))
            assert entry["judgement"]["accuracy"] == (scores.argmax(1) == answers).mean()
    trained, test = (done.record["result"][split]["after"]["judgement"] for split in ("train", "test"))
    assert test["offsets"] == pytest.approx(trained["offsets"])
    assert test["training"] == trained["examples"]


def test_halves_calibrate_each_other():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, 400)
    scores = np.stack([rng.normal(size=400), 3 + 2 * answers + rng.normal(size=400)], 1)
    judgement = judged_by_halves(scores, answers)
    assert judgement.accuracy < 0.6 < 0.75 < judgement.calibrated_accuracy
    assert judgement.calibrated_loss < judgement.loss
    odd = scores[1::2] + fit_offsets(scores[::2], answers[::2])
    even = scores[::2] + fit_offsets(scores[1::2], answers[1::2])
    right = (odd.argmax(1) == answers[1::2]).sum() + (even.argmax(1) == answers[::2]).sum()
    assert judgement.calibrated_accuracy == right / 400
    assert judged_by_halves(scores, np.arange(400) % 2) is None  # each half lacks a class


@pytest.mark.parametrize("events", [1, 2, 3, 9, 14])
def test_a_stopped_run_goes_on_to_the_bit(finished, tmp_path, events):
    out, done = finished
    lines = (out / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines[:events]))
    again = finetune(CONFIG, tmp_path, progress=False)
    assert lasting(again.record) == lasting(done.record)
    assert all(torch.equal(p, q) for p, q in zip(again.model.parameters(), done.model.parameters(), strict=True))


def test_the_settings_are_part_of_what_a_run_is(finished):
    out, _ = finished
    for change in ({"balanced": False}, {"calibrate": 0}):
        with pytest.raises(ValueError, match="holds another run"):
            finetune(replace(CONFIG, **change), out, progress=False)


def test_the_offsets_follow_the_weights(finished, tmp_path, capsys):
    out, done = finished
    main(["replay", str(out), "--out", str(tmp_path / "model")])
    record = tmp_path / "evaluation.json"
    tasks = ["--task", "reviews_sentence", "reviews_writer", "--test", "16", "--out", str(record)]
    main(["evaluate", "--model", str(tmp_path / "model"), *tasks])
    assert "with the offsets of its run" in capsys.readouterr().out
    result = load_record(record)["result"]
    assert result["reviews_sentence"]["loss"] == pytest.approx(done.record["result"]["test"]["after"]["loss"], rel=1e-6)
    assert "offsets" not in result["reviews_writer"]  # other candidates
    path = tmp_path / "model" / "offsets.json"
    path.write_text(path.read_text().replace("candidates", "candidate"))
    assert main(["evaluate", "--model", str(tmp_path / "model"), *tasks]) == 1
    assert "was changed" in capsys.readouterr().err


def test_an_adapter_keeps_its_offsets(tmp_path):
    config = replace(CONFIG, tuning="lora", steps=1, eval_every=1)
    finetune(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "adapter" / "offsets.json").exists()
    finetune(replace(config, calibrate=0), tmp_path / "run", overwrite=True, progress=False)
    assert not list((tmp_path / "run").rglob("offsets.json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "reviews_number"}, "balanced needs classes"),
        ({"task": "reviews_number", "balanced": False}, "calibrate needs classes"),
        ({"task": "reviews_next"}, "needs classes"),
        ({"calibrate": 41}, "calibrate 41 exceeds the 40 training examples"),
        ({"calibrate": 1, "balanced": False}, "none of the 1 examples for calibration is"),
        ({"train": 4, "calibrate": 2}, "of the 4 training examples of reviews_sentence are"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        finetune(replace(CONFIG, **settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "log.jsonl").exists() or not (tmp_path / "run" / "log.jsonl").read_bytes()


def test_a_plan_refuses_them_too():
    with pytest.raises(ValueError, match="needs classes"):
        configuration({"model": "tiny-reviews", "task": "reviews_number", "balanced": True})


def test_a_study_tells_what_was_learned_beside_the_offset(tmp_path):
    sizes = {"batch_size": 4, "steps": 2, "eval_every": 1, "train": 16, "dev": 8, "test": 24, "calibrate": 8, "balanced": True}
    plan = {
        **{"base": {"model": "tiny-random-llama", **sizes}, "methods": {"MeZO": {"optimizer": "mezo"}}, "seeds": [0, 1]},
        **{"tasks": {"sentence": {"task": "reviews_sentence", "lr": [1e-2]}}},
        "search": {"factor": 3, "extend": 0, "seeds": [9]},
    }
    record = run_study(check_plan(plan), tmp_path / "runs", tmp_path / "records" / "one.json", progress=False)
    before, after = record.judged("sentence", "MeZO", "auc")
    assert len(before) == 2
    assert learned(record, "sentence", "MeZO").value == pytest.approx((after - before).mean())
    assert learned_table(record).splitlines()[2].startswith("sentence  MeZO")
    (cell, _) = record.cells("sentence", "MeZO")
    assert cell["judged_curve"][0][0] == cell["curve"][0][0] == 2  # forward passes of the calibration
    assert "gain of AUC" in results(tmp_path / "records")
