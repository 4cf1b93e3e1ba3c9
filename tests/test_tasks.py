"""Decoder tasks: templates, sampling, demonstrations, the command line, and clear refusals."""

import json
import os
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest

from zolab.__main__ import main
from zolab.models import load_model
from zolab.records import load_record
from zolab.tasks import TASKS, Example, load_task
from zolab.tasks.data import Source
from zolab.tasks.metrics import interval

SAMPLES = os.environ.get("ZOLAB_DATA")


def test_sampling_is_by_seed_and_splits_are_disjoint():
    task = load_task("rotten_tomatoes")
    one, again, other = task.sample(3, 50, 20, 30), task.sample(3, 50, 20, 30), task.sample(4, 50, 20, 30)
    assert one == again
    assert one != other
    assert [len(split) for split in one] == [50, 20, 30]
    pool = {e.prompt for seed in range(3) for split in task.sample(seed)[:2] for e in split}
    held_out = {e.prompt for seed in range(3) for e in task.sample(seed).test}
    assert not pool & held_out
    assert len({e.prompt for e in one.train} | {e.prompt for e in one.dev}) == 70


def test_sampling_is_mezos(tmp_path, monkeypatch):
    """One permutation of the training split: dev is its end; the same seed permutes the validation split."""
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": f"s{i}", "label": i % 2} for i in range(40)])
    train, dev, test = load_task("sst2").sample(7, 10, 5, 20)
    order = [f"s{i} It was" for i in np.random.RandomState(7).permutation(40)]
    assert [e.prompt for e in train + dev] == order[:15]
    assert [e.prompt for e in test] == order[:20]
    assert load_task("sst2").held_out(7, 20) == test


@pytest.mark.parametrize(
    ("name", "pool", "held_out", "sizes"),
    [
        ("sst2", 2000, 872, (1000, 500, 872)),
        ("wsc", 554, 104, (54, 500, 104)),
        ("cb", 250, 56, (150, 100, 56)),
        ("copa", 400, 100, (300, 100, 100)),
    ],
)
def test_the_papers_sizes_are_the_default(monkeypatch, name, pool, held_out, sizes):
    columns = {column: "effect" if column == "question" else "x" for column in TASKS[name].source.texts} | {"label": 0}
    rows = {"train": pool, "validation": held_out}
    monkeypatch.setattr(
        Source, "_from_hub", lambda self, split: (datasets.Dataset.from_list([columns] * rows[split]), "made up")
    )
    monkeypatch.delenv("ZOLAB_DATA", raising=False)
    assert tuple(map(len, load_task(name).sample())) == sizes


def test_small_data_keeps_dev_and_caps_the_rest(tmp_path, monkeypatch):
    write(tmp_path, [{"sentence": f"s{i}", "label": i % 2} for i in range(12)])
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    assert [len(split) for split in load_task("sst2").sample(0, 1000, 5, 1000)] == [7, 5, 12]
    with pytest.raises(ValueError, match="leaves none to train on"):
        load_task("sst2").sample(0, 10, 12, 5)
    with pytest.raises(ValueError, match="test must be at least 1"):
        load_task("sst2").sample(0, 10, 5, 0)


ENTAILS = {"premise": "It rains.", "hypothesis": "It is wet"}
ARTICLE = {
    "passage": "Ann met Bob.\n@highlight\nBob was late\n@highlight\nAnn waited",
    "query": "It was @placeholder who came late, said @placeholder.",
    "entities": ["Ann", "Bob", "Bobby"],
    "answers": ["Bob", "Bobby"],
}
READ = {"title": "Two_Lives", "context": "She was born in 1900.", "question": " When was she born? "}
RECORD = "Ann met Bob.\n- Bob was late\n- Ann waited\n-"
YES_NO = ("Yes", "No")


@pytest.mark.parametrize(
    ("name", "row", "prompt", "candidates", "answer"),
    [
        ("sst2", {"sentence": "fine film ", "label": 1}, "fine film It was", (" terrible", " great"), 1),
        ("rotten_tomatoes", {"text": "dull .", "label": 0}, "dull . It was", (" terrible", " great"), 0),
        ("rte", ENTAILS | {"label": 0}, 'It rains.\nDoes this mean that "It is wet" is true? Yes or No?\n', ("Yes", "No"), 0),
        (
            "cb",
            ENTAILS | {"label": 2},
            'Suppose It rains. Can we infer that "It is wet"? Yes, No, or Maybe?\n',
            ("Yes", "No", "Maybe"),
            2,
        ),
        (
            "boolq",
            {"passage": "Ice floats.", "question": "does ice sink", "answer": False},
            "Ice floats. Does ice sink?\n",
            YES_NO,
            1,
        ),
        ("boolq", {"passage": "Ice floats.", "question": "Is it so?", "answer": True}, "Ice floats. Is it so?\n", YES_NO, 0),
        (
            "wsc",
            {"text": "Ann saw Bob when He came.", "span1_text": "Bob", "span2_text": "He", "label": 1},
            'Ann saw Bob when He came.\nIn the previous sentence, does the pronoun "he" refer to Bob? Yes or No?\n',
            ("No", "Yes"),
            1,
        ),
        (
            "wic",
            {"word": "bank", "sentence1": "A river bank.", "sentence2": "The bank lent.", "label": 0},
            'Does the word "bank" have the same meaning in these two sentences? Yes, No?\nA river bank.\nThe bank lent.\n',
            ("No", "Yes"),
            0,
        ),
        (
            "multirc",
            {"paragraph": "He ran.", "question": "Who ran?", "answer": "She", "label": 0},
            'He ran.\nQuestion: Who ran?\nI found this answer "She". Is that correct? Yes or No?\n',
            ("No", "Yes"),
            0,
        ),
        (
            "copa",
            {"premise": "He slept. ", "choice1": "I was Late.", "choice2": "The Sun set.", "question": "cause", "label": 1},
            "He slept because ",
            ("I was Late.", "the Sun set."),
            1,
        ),
        (
            "copa",
            {"premise": "Did he sleep?", "choice1": "No.", "choice2": "It rang.", "question": "effect", "label": 0},
            "Did he sleep? so ",
            ("no.", "it rang."),
            0,
        ),
        (
            "record",
            ARTICLE,
            RECORD,
            tuple(f" It was {name} who came late, said {name}." for name in ("Ann", "Bob", "Bobby")),
            1,
        ),
        (
            "squad",
            READ | {"answers": {"text": ["1900", "in 1900"], "answer_start": [16, 13]}},
            "Title: Two_Lives\nContext: She was born in 1900.\nQuestion: When was she born?\nAnswer:",
            (" 1900\n",),
            0,
        ),
        (
            "drop",
            {"passage": " A 3-yard run.", "question": "How long?"}
            | {"answers_spans": {"spans": ["3", "3-yard"], "types": ["number", "span"]}},
            "Passage:  A 3-yard run.\nQuestion: How long?\nAnswer:",
            (" 3\n",),
            0,
        ),
    ],
)
def test_templates_are_mezos(name, row, prompt, candidates, answer):
    example = load_task(name).template(row)
    assert (example.prompt, example.candidates, example.answer) == (prompt, candidates, answer)


def test_several_answers_may_be_right():
    assert load_task("record").template(ARTICLE).also == (2,)
    assert load_task("squad").template(READ | {"answers": {"text": ["a", "b"]}}).references == (("a",), ("b",))


@pytest.mark.parametrize(
    ("spans", "answers"),
    [
        ({"3": "number"}, [("3",)]),
        ({"4": "number", "5": "number"}, [("4",), ("5",)]),  # two annotators: a number is a whole answer
        ({"Ann": "span", "Bob": "span"}, [("Ann", "Bob")]),
        ({"Ann": "span", "1560": "date", "Bob": "span"}, [("Ann", "Bob"), ("1560",)]),
    ],
)
def test_answers_of_drop(spans, answers):
    row = {"passage": "x", "question": "y", "answers_spans": {"spans": list(spans), "types": list(spans.values())}}
    example = load_task("drop").template(row)
    assert example.references == tuple(answers)
    assert example.candidates == (f" {next(iter(spans))}\n",)
    twice = {key: value * 2 for key, value in row["answers_spans"].items()}
    assert load_task("drop").template(row | {"answers_spans": twice}) == example


def test_objectives_are_mezos():
    answers = {name for name in TASKS if TASKS[name].objective == "answer"}
    assert answers == {"copa", "record", "squad", "drop", "reviews_next", "reviews_number"}
    assert {name for name in TASKS if TASKS[name].metric == "f1"} == {"squad", "drop", "reviews_number"}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("copa", {"premise": "a", "choice1": "b", "choice2": "c", "question": "why", "label": 0}, "asks for 'why'; correct it"),
        ("record", ARTICLE | {"query": "It was Bob."}, "the ReCoRD query 'It was Bob.' has no @placeholder"),
        ("record", ARTICLE | {"answers": ["Eve"]}, "the ReCoRD answer 'Eve' is not one of the row's entities"),
    ],
)
def test_rows_that_are_no_question(name, row, message):
    with pytest.raises(ValueError, match=message):
        load_task(name).template(row)


def write(folder: Path, rows, task="sst2"):
    (folder / task).mkdir(exist_ok=True)
    for split in ("train", "validation"):
        (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": 1}], r"train\.jsonl lacks the column sentence; it has text, label"),
        ([{"sentence": "a", "label": 1}, {"sentence": "b", "label": -1}], "row 2 of .* has label -1"),
        (
            [{"sentence": "a", "label": 1}, {"sentence": "  ", "label": 0}],
            "row 2 of .* has an empty sentence; remove or fill it",
        ),
        ([{"sentence": None, "label": 1}], "row 1 of .* has an empty sentence"),
        ([{"sentence": 5, "label": 1}], "row 1 of .* has sentence 5 where a text should be; correct it"),
        ([{"sentence": {"a": "b"}, "label": 1}], "where a text should be"),
        ([{"sentence": "a", "label": "1"}], "row 1 of .* has label '1'; allowed are"),
        ([{"sentence": "a", "label": None}], "row 1 of .* has label None"),
        ([{"sentence": "a"}], "lacks the column label; it has sentence"),
        ([{}], "has no rows; use another file"),
    ],
)
def test_wrong_schema_is_refused_in_one_sentence(tmp_path, monkeypatch, rows, message):
    write(tmp_path, rows)
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load_task("sst2").sample()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("squad", {"answers": {"text": [], "answer_start": []}}, r"row 1 of .* has an empty answers\.text"),
        ("squad", {"answers": {"text": ["a", " "], "answer_start": [0, 1]}}, r"has an empty answers\.text"),
        ("squad", {"answers": ["a"]}, r"lacks the column answers\.text"),
        ("squad", {"answers": {"text": [1]}}, r"answers\.text \[1\] where a text should be"),
        ("squad", {"answers": {"text": "1900"}}, r"answers\.text '1900' where a list of texts should be"),
        ("boolq", {"passage": None}, "has an empty passage"),
        ("record", {"entities": []}, "has an empty entities"),
    ],
)
def test_nested_columns_are_checked(tmp_path, monkeypatch, name, change, message):
    read = READ | {"answers": {"text": ["1900"], "answer_start": [16]}}
    row = {"record": ARTICLE, "boolq": {"passage": "Ice -- It floats.", "question": "q", "label": 1}}.get(name, read)
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [row], name)
    assert len(load_task(name).held_out()) == 1
    write(tmp_path, [row | change], name)
    with pytest.raises(ValueError, match=message):
        load_task(name).held_out()


def test_a_row_without_its_nested_column(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    row = READ | {"answers": {"text": ["1900"], "answer_start": [16]}}
    write(tmp_path, [row, row | {"answers": None}], "squad")
    with pytest.raises(ValueError, match=r"row 2 of .* has an empty answers\.text"):
        load_task("squad").held_out()


@pytest.mark.parametrize("yes", [True, 1.0, 1])
def test_labels_become_whole_numbers(tmp_path, monkeypatch, yes):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": "a", "label": yes}])
    (example,) = load_task("sst2").held_out()
    assert (type(example.answer), example.answer) == (int, 1)


@pytest.mark.parametrize("wrong", [{"answer": -1}, {"answer": 2}, {"answer": 0, "also": (2,)}])
def test_an_answer_must_be_a_candidate(wrong):
    with pytest.raises(
        ValueError, match=r"the answer to 'Is it so\?' is number .*there are 2 candidates.*correct the template"
    ):
        Example("Is it so?", YES_NO, **wrong)


def test_only_drawn_rows_are_judged(tmp_path, monkeypatch):
    """A bad row among many does not keep the others from being used."""
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": "a", "label": 0}] * 9 + [{"sentence": "", "label": 0}])
    order = {seed: np.random.RandomState(seed).permutation(10)[0] for seed in range(10)}
    for seed, first in order.items():
        if first == 9:
            with pytest.raises(ValueError, match=r"row 10 of .* has an empty sentence"):
                load_task("sst2").held_out(seed, 1)
        else:
            assert len(load_task("sst2").held_out(seed, 1)) == 1
    assert 9 in order.values()


def test_missing_or_damaged_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no train\.jsonl"):
        load_task("sst2").sample()
    write(tmp_path, [{"sentence": "a", "label": 1}])
    (tmp_path / "sst2" / "train.jsonl").write_text('{"sentence": "a", "label"')
    with pytest.raises(ValueError, match="cannot be read"):
        load_task("sst2").sample()
    (tmp_path / "sst2" / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"cannot be read|has no rows"):
        load_task("sst2").sample()
    datasets.Dataset.from_list([{"sentence": "a", "label": 1}] * 3).to_parquet(tmp_path / "sst2" / "train.parquet")
    (tmp_path / "sst2" / "train.jsonl").unlink()
    assert len(load_task("sst2").sample(0, 2, 1, 1).train) == 2
    (tmp_path / "sst2" / "validation.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no validation\.jsonl or validation\.parquet; add it"):
        load_task("sst2").held_out()


def test_without_network_the_ways_out_are_named_at_once(monkeypatch):
    monkeypatch.delenv("ZOLAB_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(OSError, match=r"nobody/nothing is not on this machine.*cannot be reached.*ZOLAB_DATA.*rotten_tomatoes"):
        Source("nothing", ("nobody/nothing", None), ("text",)).rows("train")
    assert time.monotonic() - started < 10
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        Source("nothing", ("nobody/nothing", None), ("text",)).rows("train")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("boolq", ("google/boolq", None, "validation", None)),
        ("wsc", ("aps/super_glue", "wsc.fixed", "validation", None)),
        ("drop", ("ucinlp/drop", None, "validation", None)),
        ("masked_mnli", ("nyu-mll/glue", "mnli", "validation_matched", None)),
        ("masked_trec", ("CogComp/trec", None, "test", "refs/convert/parquet")),
    ],
)
def test_the_hub_is_asked_by_id(monkeypatch, name, source):
    def load(path, configuration, split, revision):
        assert (path, configuration, split, revision) == source
        return datasets.Dataset.from_list([{"other": 1}])

    monkeypatch.delenv("ZOLAB_DATA", raising=False)
    monkeypatch.setattr("zolab.tasks.data.require_hub", lambda what, ways_out: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ValueError, match=rf"{source[0]} \({source[2]}\) on the Hub lacks the column .*; it has other"):
        load_task(name).held_out()


def test_both_editions_of_boolq_ask_the_same(tmp_path, monkeypatch):
    """SuperGLUE's has another name for the answer, and the article's title before the passage."""
    original = [{"question": "does it float", "passage": f"Ice {n} -- or water -- floats.", "answer": n > 1} for n in range(4)]
    titled = [{**row, "passage": f"Ice (H2O) -- {row['passage']}", "label": int(row["answer"]), "idx": 5} for row in original]
    for row in titled:
        del row["answer"]
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    samples = []
    for rows in (original, titled):
        write(tmp_path, rows, "boolq")
        samples.append(load_task("boolq").sample(0, 2, 1, 4))
    assert samples[0] == samples[1]
    assert {e.prompt for e in samples[0].test} == {f"{row['passage']} Does it float?\n" for row in original}
    assert sorted(e.answer for e in samples[0].test) == [0, 0, 1, 1]
    write(tmp_path, [{**row, "label": -1} for row in titled], "boolq")
    with pytest.raises(ValueError, match=r"has answer -1; allowed are \(0, 1\): drop unlabelled rows"):
        load_task("boolq").sample(0, 2, 1, 4)
    write(tmp_path, [{"question": "q", "passage": "p"}], "boolq")
    with pytest.raises(ValueError, match="lacks the column answer; it has question, passage"):
        load_task("boolq").held_out()


def test_missing_data_package(monkeypatch):
    import importlib.util

    from zolab.tasks import data

    data._shuffled.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="make install"):
        load_task("rotten_tomatoes").sample()


def test_unknown_task():
    with pytest.raises(ValueError, match=r"unknown task 'sst9'; the tasks are .*sst2"):
        load_task("sst9")


# --- in context, and from the command line


def test_demonstrations_are_mezos(tmp_path, monkeypatch):
    """Another draw for each example, each with its answer, parted by empty lines."""
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": f"s{i}", "label": i % 2} for i in range(30)])
    task = load_task("sst2")
    examples = task.held_out(0, 5)
    demonstrated = task.demonstrate(examples, 2, seed=3)
    seeds = np.random.RandomState(3).randint(0, 10000, 5)
    for example, given, seed in zip(examples, demonstrated, seeds, strict=True):
        a, b = np.random.RandomState(seed).permutation(30)[:2]
        solved = "".join(f"s{i} It was {('terrible', 'great')[i % 2]}\n\n" for i in (a, b))
        assert given.prompt == solved + example.prompt
        assert (given.candidates, given.answer) == (example.candidates, example.answer)
    assert len({e.prompt.split("\n\n")[0] for e in demonstrated}) > 1
    assert task.demonstrate(examples, 0) == examples
    own = task.sample(0, 20, 5, 5).train
    for example, given in zip(own, task.demonstrate(own, 29, seed=3, among=True), strict=True):
        assert len(given.prompt.split("\n\n")) == 30
        assert given.prompt.count(example.prompt.strip()) == 1, "an example stands solved before itself"
    for shots in (-1, 31):
        with pytest.raises(ValueError, match="shots must be between 0 and the 30 training rows of sst2"):
            task.demonstrate(examples, shots)


@pytest.fixture
def evaluate(monkeypatch, capsys):
    def run(*options):
        monkeypatch.setattr(sys, "argv", ["zolab", "evaluate", "--model=tiny-random-llama", *options])
        return main(), capsys.readouterr()

    return run


def test_the_command_line_calibrates(evaluate):
    code, captured = evaluate("--test=12", "--calibrate=10", "--data_seed=5")
    assert code == 0
    assert "after calibration" in captured.out
    assert "AUC" in captured.out
    code, captured = evaluate("--test=12", "--calibrate=-1")
    assert (code, captured.err) == (1, "error: calibrate must be at least 0, got -1.\n")


@pytest.mark.parametrize("shots", [0, 2])
def test_the_command_line_evaluates(evaluate, shots):
    code, captured = evaluate("--test=12", f"--shots={shots}", "--data_seed=5")
    assert code == 0
    task = load_task("rotten_tomatoes")
    loss, metrics = task.score(*load_model("tiny-random-llama"), task.demonstrate(task.held_out(5, 12), shots, 5))
    low, high = interval(metrics["accuracy"])
    first, second, third = captured.out.splitlines()
    manner = "2 demonstrations" if shots else "zero-shot"
    assert first == f"tiny-random-llama on rotten_tomatoes, {manner}, 12 examples: loss {loss:.3f}"
    assert second.split()[:2] == ["accuracy", f"{100 * metrics['accuracy'].mean():.1f}"]
    assert f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)" in second
    assert third.startswith("  without reading the prompt: chance 50.0 %, majority ")


def test_an_evaluation_says_how_many_prompts_were_cut(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": "s" * size, "label": 1} for size in (9, 2100, 2200)])
    code, captured = evaluate("--task=sst2", f"--out={tmp_path / 'new' / 'r.json'}")
    assert code == 0
    assert "2 of the prompts were cut: with an answer they are longer than the task or the model takes" in captured.out
    assert load_record(tmp_path / "new" / "r.json")["result"]["sst2"]["cut"] == 2


def test_an_evaluation_of_several_tasks_leaves_a_record(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": f"s{i}", "label": int(i > 2)} for i in range(9)])
    write(tmp_path, [READ | {"answers": {"text": ["1900"], "answer_start": [16]}}] * 3, "squad")
    code, _ = evaluate("--task", "squad", "sst2", "--test", "2", "7", "--data_seed=1", f"--out={tmp_path / 'r.json'}")
    assert code == 0
    record = load_record(tmp_path / "r.json")
    assert record["config"]["task"] == ["squad", "sst2"]
    assert {"commit", "versions", "machine"} <= record.keys()
    assert str(tmp_path) not in (tmp_path / "r.json").read_text()
    squad, sst2 = record["result"]["squad"], record["result"]["sst2"]
    assert (squad["examples"], squad["drawn_from"], sst2["examples"], sst2["drawn_from"]) == (2, 3, 7, 9)
    assert squad["blind"] == {"empty answer": 0.0}
    task = load_task("sst2")
    examples = task.held_out(1, 7)
    loss, metrics = task.score(*load_model("tiny-random-llama"), examples)
    expected = {"mean": metrics["accuracy"].mean(), "interval": list(interval(metrics["accuracy"]))}
    assert (sst2["loss"], sst2["metrics"], sst2["blind"]) == (loss, {"accuracy": expected}, task.blind(examples))


def test_a_task_that_fails_does_not_cost_those_before_it(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    write(tmp_path, [{"sentence": f"s{i}", "label": int(i > 2)} for i in range(9)])
    code, captured = evaluate("--task", "sst2", "masked_sst2", "--test=3", f"--out={tmp_path / 'r.json'}")
    assert code == 1
    assert "the label word" in captured.err
    assert load_record(tmp_path / "r.json")["result"].keys() == {"sst2"}


def test_answers_that_do_not_read_the_prompt():
    examples = [Example("p", ("a", "b"), answer) for answer in (0, 1, 1, 1)]
    assert load_task("sst2").blind(examples) == {"chance": 0.5, "majority": 0.75}
    ragged = [Example("p", ("a", "b"), 0), Example("q", ("c", "d", "e", "f"), 3, also=(0, 1))]
    assert load_task("record").blind(ragged) == {"chance": (1 / 2 + 3 / 4) / 2}
    alike = [Example("p", ("a", "b", "c"), 0, also=(1,)), Example("q", ("a", "b", "c"), 1)]
    assert load_task("record").blind(alike) == {"chance": (2 / 3 + 1 / 3) / 2, "majority": 1.0}
    assert load_task("squad").blind([Example("p", (" a\n",), 0, references=(("a",),))]) == {"empty answer": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task=sst9"], "error: unknown task 'sst9'"),
        (["--test=0"], "error: test must be at least 1"),
        (["--task", "sst2", "rte", "cb", "--test", "1", "2"], "error: --test has 2 numbers for 3 tasks; give one, or one"),
        (["--shots=-3"], "error: shots must be at least 0, got -3"),
        (["--data_seed=-1"], "error: data_seed must be at least 0, got -1"),
        (["--task", "sst2", "rte", "sst2"], "error: --task names a task twice: sst2 rte sst2; give each once"),
        (["--out=zolab"], "error: zolab cannot be written (it is a folder); choose another place"),
    ],
)
def test_the_command_line_refuses(evaluate, options, message):
    code, captured = evaluate(*options)
    assert code == 1
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine")
@pytest.mark.parametrize("name", [name for name in TASKS if isinstance(load_task(name).source, Source)])
def test_real_samples_have_the_schema(name):
    task = load_task(name)
    if not (Path(SAMPLES) / task.source.name).is_dir():
        pytest.skip(f"ZOLAB_DATA has no folder {task.source.name}")
    splits = task.sample(0, 12, 6, 50)
    assert all(e.prompt and len(e.candidates) > e.answer >= 0 for split in splits for e in split)
    assert len({e.prompt for e in splits.test}) > 20
