"""What a run lowers when it is not the loss: a metric, or any function of the weights."""

import inspect
from dataclasses import replace

import pytest
import torch
from small import command

from zolab.models import load_model
from zolab.records import load_record
from zolab.runs import objectives
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.studies.plan import configuration
from zolab.tasks import load_task

CONFIG = Config(
    model="tiny-reviews", task="reviews_sentence", objective="accuracy", lr=1e-3, eps=0.1, steps=6, eval_every=2,
    batch_size=8, train=24, dev=12, test=8,
)  # fmt: skip


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


@pytest.mark.parametrize("name", ["reviews_sentence", "reviews_next", "reviews_number"])
def test_an_objective_is_what_a_metric_lacks_to_1(name):
    task, (model, tokenizer) = load_task(name), load_model("tiny-reviews")
    examples = task.sample(0, 6, 2, 2).train
    _, metrics = task.score(model, tokenizer, examples)
    measured = objectives.closure(task.metric, task, model, tokenizer, examples)()
    assert measured == 1 - metrics[task.metric].mean()
    loss = objectives.closure("loss", task, model, tokenizer, examples)()
    assert torch.equal(loss, task.loss(model, task.encode(tokenizer, examples)))


def test_a_run_on_accuracy(tmp_path):
    done = run(CONFIG, tmp_path)
    steps, dev = done.record["steps"], [entry for entry in done.record["evaluations"] if entry["split"] == "dev"]
    assert all(value * 8 == round(value * 8) for step in steps for value in step["losses"])
    assert any(step["projected_grads"][0] for step in steps)
    best = min(dev, key=lambda entry: (-entry["metric"], entry["loss"]))
    assert done.record["result"]["best_step"] == best["step"]
    assert done.task.evaluate(done.model, done.tokenizer, done.examples.dev).metric == best["metric"]


@pytest.mark.slow
def test_a_run_on_f1_in_place_and_through_the_model(tmp_path):
    config = replace(CONFIG, task="reviews_number", objective="f1", steps=1, batch_size=2, dev=2, test=2)
    in_place = run(replace(config, probe="in_place"), tmp_path / "in_place").record
    through = run(replace(config, probe="through"), tmp_path / "through").record
    assert in_place["steps"] == through["steps"]


def test_patience_and_the_step_that_is_kept_follow_the_objective():
    worse, better = {"loss": 0.5, "metric": 0.6}, {"loss": 0.9, "metric": 0.7}
    assert objectives.rank("loss", worse) < objectives.rank("loss", better)
    assert objectives.rank("accuracy", better) < objectives.rank("accuracy", worse)
    assert objectives.rank("accuracy", worse) < objectives.rank("accuracy", worse | {"loss": 0.6})


def test_a_run_that_is_older_than_the_setting_goes_on(tmp_path):
    from zolab.records.log import RunLog

    config = replace(CONFIG, objective="loss")
    run(config, tmp_path / "new")
    new, old = RunLog(tmp_path / "new" / "log.jsonl"), RunLog(tmp_path / "old" / "log.jsonl")
    for event in new.events[:8]:
        fields = {key: value for key, value in event.items() if key != "event"}
        if event["event"] == "start":
            del fields["config"]["objective"]
        old.append(event["event"], **fields)
    new.close(), old.close()
    assert run(config, tmp_path / "old").record["steps"] == load_record(tmp_path / "new" / "record.json")["steps"]
    with pytest.raises(ValueError, match=r"holds another run \(objective 'loss' there, 'accuracy' here\)"):
        run(CONFIG, tmp_path / "old")


@pytest.mark.parametrize(
    ("objective", "task", "message"),
    [
        (
            "f1",
            "reviews_sentence",
            "there is no objective 'f1' here: reviews_sentence is judged by its accuracy; write loss or",
        ),
        ("accuracy", "reviews_number", "there is no objective 'accuracy' here: reviews_number is judged by its f1"),
        ("em", "squad", "there is no objective 'em' here: squad is judged by its f1; write loss or f1"),
    ],
)
def test_a_task_without_such_a_metric(tmp_path, objective, task, message):
    config = replace(CONFIG, objective=objective, task=task)
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=message):
        configuration(vars(config))


@pytest.mark.parametrize("name", ["adam", "forward_gradient"])
def test_a_method_that_needs_a_gradient(name):
    with pytest.raises(ValueError, match="accuracy has no gradient, which this method needs; write loss"):
        configuration(
            {key: value for key, value in vars(CONFIG).items() if key not in ("eps", "schedule")} | {"optimizer": name}
        )


def test_equal_sides_are_reported(tmp_path):
    words = ("finetune", f"--out={tmp_path / 'run'}", "--model=tiny-reviews", "--task=reviews_sentence", "--objective=accuracy")
    completed = command(*words, "--eps=1e-6", "--steps=3", "--batch_size=4", "--train=8", "--dev=4", "--test=4")
    assert completed.status == 0, completed.errors
    assert "3 steps measured the same accuracy on both sides, which says nothing about where to go: raise eps" in completed.out
    steps = load_record(tmp_path / "run" / "record.json")["steps"]
    assert [step["projected_grads"] for step in steps] == [[0.0]] * 3


def test_the_example_of_the_docstring_runs(capsys):
    lines = [line for line in inspect.getdoc(objectives).splitlines() if line.startswith("    ")]
    assert len(lines) <= 10
    exec(compile(inspect.cleandoc("\n".join(lines)), "example", "exec"), {})
    lengths = [float(word) for word in capsys.readouterr().out.split()]
    assert len(lengths) == 3
    assert all(length > 0 for length in lengths)
