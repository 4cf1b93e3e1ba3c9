"""Data of one's own, without Python and with ten lines of it, in every command that takes a task."""

import csv
import json
import sys

import datasets
import pytest
from small import command

from zolab.l2l.config import TaskNames
from zolab.records import load_record
from zolab.studies.plan import check_plan
from zolab.tasks import Description, Example, LocalFile, digest, load_task
from zolab.tasks.description import after, filled

WORDS = ("terrible", "great")
ROWS = [{"text": f"film {n}", "label": n % 2} for n in range(40)]
CHOICES = [{"start": f"He had {n}.", "one": f"It was {n}.", "two": f"She is {n}.", "label": n % 2} for n in range(20)]
QUESTIONS = [{"text": f"There were {n} of them.", "number": str(n)} for n in range(20)]
SIZES = ("--train=8", "--dev=4", "--test=4")
SMALL = ("--model=tiny-random-llama", "--steps=2", "--batch_size=4", *SIZES)
OWN = ("--prompt={text} It was", "--candidates", *WORDS)


def write(path, rows=ROWS):
    """Rows in the format that the file's name asks for."""
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv":
            with open(path, "w", newline="") as file:
                lines = csv.DictWriter(file, list(rows[0]))
                lines.writeheader()
                lines.writerows(rows)
        case ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files of one's own, where the command line is."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.jsonl")
    write(tmp_path / "choices.csv", CHOICES)
    write(tmp_path / "numbers.parquet", QUESTIONS)
    return tmp_path


def described(data="my.jsonl", prompt="{text} It was", candidates=WORDS, **more):
    return str(Description(data, prompt, candidates, **more))


# --- from a row to an example


def test_a_description_is_its_text():
    plain = Description("my.jsonl", "{text} It was", (" bad", " good"))
    assert str(plain) == '{"data": "my.jsonl", "prompt": "{text} It was", "candidates": [" bad", " good"]}'
    full = Description("a/my.csv", "{{é}} {text}", ("{a}", "{b}"), label="right", labels=("A", "B"))
    written = Description("my.parquet", "{text}\n", answer="{answer}")
    for one in (plain, full, written):
        assert Description.parse(str(one)) == one
    assert full.columns == ("text", "a", "b", "right")
    assert written.columns == ("text", "answer")


@pytest.mark.parametrize(
    ("prompt", "candidates", "row", "prompt_text", "followed"),
    [
        ("{text} It was", (" bad", " good"), {"text": " fine "}, "fine It was", (" bad", " good")),
        ("{text} It was", ("bad", "good"), {"text": "fine"}, "fine It was", (" bad", " good")),
        ("{text}\n", ("No", "Yes"), {"text": "fine"}, "fine\n", ("No", "Yes")),
        ("Is {a b} {{x}}? ", ("No", "Yes"), {"a b": "it"}, "Is it {x}? ", ("No", "Yes")),
        ("{q}: (", ("A", "B"), {"q": "Which"}, "Which: (", ("A", "B")),
        ("{q}:", ("A", "b 2"), {"q": "Which"}, "Which:", (" A", " b 2")),
        ("{q}は", ("良い", "悪い"), {"q": "映画"}, "映画は", ("良い", "悪い")),
        ("{q}", ("{one}", "{two}"), {"q": "He ran.", "one": "It rained.", "two": "so"}, "He ran.", (" It rained.", " so")),
    ],
)
def test_a_template_and_a_row(prompt, candidates, row, prompt_text, followed):
    assert filled(prompt, row) == prompt_text
    assert tuple(after(prompt_text, filled(candidate, row)) for candidate in candidates) == followed


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_examples(here, suffix):
    task = load_task(described(write(here / f"other.{suffix}")))
    assert task.name == "other"
    assert task.sample(3) == load_task(described()).sample(3)
    (first, *_) = task.held_out()
    number = int(first.prompt.split()[1])
    assert first == Example(f"film {number} It was", (" terrible", " great"), number % 2)


def test_several_choices_and_written_answers(here):
    (choice, *_) = load_task(described("choices.csv", "{start}", ("{one}", "{two}"))).held_out()
    number = choice.prompt.split()[2][:-1]
    assert choice.candidates == (f" It was {number}.", f" She is {number}.")
    assert choice.answer == int(number) % 2
    task = load_task(described("numbers.parquet", "{text}\nHow many?", (), answer="{number}"))
    (question, *_) = task.held_out()
    number = question.prompt.split()[2]
    assert question == Example(f"There were {number} of them.\nHow many?", (f" {number}\n",), 0, references=((number,),))
    assert (task.metric, task.objective) == ("f1", "answer")


def test_numbers_are_written_out(tmp_path):
    rows = [{"year": 1900 + n, "score": n / 2, "seen": bool(n % 2), "label": float(n % 2)} for n in range(10)]
    for suffix in ("jsonl", "parquet"):
        task = load_task(described(write(tmp_path / f"my.{suffix}", rows), "{year}, {score}, {seen}."))
        prompts = {example.prompt for split in task.sample(0, 9, 2, 2) for example in split}
        assert prompts == {f"{1900 + n}, {n // 2 if n % 2 == 0 else n / 2}, {bool(n % 2)}." for n in range(10)}


@pytest.mark.parametrize(
    ("labels", "more", "answers"),
    [
        ((0, 1), {}, (0, 1)),
        ((True, False), {}, (1, 0)),
        (("great", "terrible"), {}, (1, 0)),
        (("neg", "pos"), {"labels": ("neg", "pos")}, (0, 1)),
        (("neg", "pos"), {"labels": ("pos", "neg")}, (1, 0)),
        ((1, 2), {"candidates": ("1", "2")}, (0, 1)),  # texts, since 2 is no candidate's number
        ((0, 1), {"candidates": ("0", "1", "2")}, (0, 1)),  # the same either way
    ],
)
def test_what_labels_stand_for(tmp_path, labels, more, answers):
    rows = [{"text": f"film {n}", "label": labels[n % 2]} for n in range(10)]
    for suffix in ("jsonl", "csv"):
        splits = load_task(described(write(tmp_path / f"my.{suffix}", rows), **more)).sample()
        for example in (example for split in splits for example in split):
            assert example.answer == answers[int(example.prompt.split()[1]) % 2]


# --- which rows


def test_splits_are_disjoint_and_the_held_out_rows_are_the_same_for_every_seed(here):
    task = load_task(described())
    splits = [task.sample(seed) for seed in range(5)]
    assert [len(split) for split in splits[0]] == [24, 8, 8]
    assert len({frozenset(e.prompt for e in drawn.test) for drawn in splits}) == 1
    assert len({digest(drawn.train) for drawn in splits}) == 5
    for train, dev, test in splits:
        assert len({e.prompt for e in (*train, *dev, *test)}) == 40
    assert task.sample(1) == load_task(described()).sample(1)


def test_equal_rows_are_kept_once(tmp_path):
    twice = [row | {"id": n} for n, row in enumerate(ROWS * 3)]
    task = load_task(described(write(tmp_path / "my.jsonl", twice)))
    assert sum(map(len, task.sample())) == 40


@pytest.mark.slow
def test_no_more_than_2000_rows_are_held_out(tmp_path):
    many = [{"text": f"film {n}", "label": n % 2} for n in range(12_000)]
    task = load_task(described(write(tmp_path / "my.csv", many)))
    assert len(task.source.rows("test")) == 2000
    assert [len(split) for split in task.sample()] == [1000, 500, 1000]


def test_a_folder_has_its_own_splits(here):
    def numbers_of(task):
        return [{int(example.prompt.split()[1]) for example in split} for split in task.sample()]

    (here / "data").mkdir()
    write(here / "data" / "train.jsonl", ROWS[:20])
    write(here / "data" / "test.csv", ROWS[20:30])
    train, dev, test = numbers_of(load_task(described("data")))
    assert (train | dev, len(dev), test) == (set(range(20)), 5, set(range(20, 30)))
    write(here / "data" / "validation.parquet", ROWS[30:])
    assert numbers_of(load_task(described("data"))) == [set(range(20)), set(range(30, 40)), set(range(20, 30))]
    source = LocalFile("data", ("text",), labels=(0, 1))
    assert (source.dev, source.held_out, len(source.rows("validation"))) == ("validation", "test", 10)
    completed = command("finetune", "--out=run", "--task=data", *SMALL, *OWN)
    assert completed.status == 0, completed.errors
    write(here / "data" / "test.csv", [*ROWS[18:19], *ROWS[20:30]])
    with pytest.warns(UserWarning, match="data: 1 texts of test are in train, too; take them out of one of the two"):
        source.rows("test")
    (here / "data" / "train.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"data has no file train that ends in .jsonl, .csv, .parquet; add it"):
        load_task(described("data"))


# --- refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"data": "my.txt"}, "'my.txt' must be a folder or a file that ends in .jsonl, .csv, .parquet; convert it"),
        ({"prompt": "It was"}, "the prompt 'It was' names no column; write one in braces, such as {text}"),
        ({"prompt": ""}, "the prompt '' names no column"),
        ({"prompt": "{text"}, r"the prompt '{text' cannot be read \(.*\); write a column in braces"),
        ({"prompt": "{}"}, "the prompt '{}' has braces around what is no plain name of a column"),
        ({"prompt": "{text!r}"}, "no plain name of a column"),
        ({"prompt": "{text.__class__}"}, "no plain name of a column"),
        ({"prompt": "{text:>10}"}, "no plain name of a column"),
        ({"prompt": 3}, "prompt must be a text in UTF-8, got 3"),
        ({"prompt": "{text}\udcff"}, "prompt must be a text in UTF-8"),
        ({"candidates": ()}, "my.jsonl needs candidates to choose from or an answer to write, one of both"),
        ({"answer": "{text}"}, "one of both"),
        ({"candidates": (), "answer": "yes"}, "the answer 'yes' names no column"),
        ({"candidates": ("bad",)}, r"candidates must be at least two texts that are not empty, got \('bad',\)"),
        ({"candidates": ("bad", " ")}, "at least two texts that are not empty"),
        ({"candidates": ("bad", " bad ")}, r"'bad' is there twice among \('bad', ' bad '\); let each be another"),
        ({"candidates": ("bad", "{b")}, "the candidate '{b' cannot be read"),
        ({"candidates": "bad"}, "candidates must be a list of texts"),
        ({"labels": ("a",)}, "there are 2 candidates and 1 labels; give a label for each candidate, in their order"),
        ({"labels": ("a", "a")}, "'a' is there twice"),
        ({"label": "a.b"}, "no plain name of a column"),
    ],
)
def test_a_description_that_makes_no_task(more, message):
    with pytest.raises(ValueError, match=message) as excinfo:
        Description(**{"data": "my.jsonl", "prompt": "{text} It was", "candidates": WORDS} | more)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the task '{' cannot be read as JSON"),
        ("{" * 100_000, "it has 100,000 characters, more than 65,536"),
        ('{"a":' * 10_000, "cannot be read as JSON"),
        ('{"data": "my.jsonl"}', "a task of your own has data and prompt, and may have candidates, answer, label, labels;"),
        ('{"data": "my.jsonl", "prompt": "{a}", "candidate": ["a", "b"]}', "a task of your own has data and prompt"),
        ('{"data": "my.jsonl", "prompt": "{a}", "candidates": {"a": 1}}', "candidates must be a list of texts"),
        ("my.jsonl", "my.jsonl needs a prompt, and candidates or an answer, to be a task"),
        ("nothing", "unknown task 'nothing'; the tasks are rotten_tomatoes"),
    ],
)
def test_a_text_that_is_no_task(text, message):
    with pytest.raises(ValueError, match=message):
        load_task(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{"review": "a", "label": 0}] * 9, r"my\.jsonl lacks the column text; it has review, label"),
        (lambda rows: [{"text": "a"}] * 9, r"my\.jsonl lacks the column label; it has text"),
        (lambda rows: [], r"my\.jsonl has no rows; use another file"),
        (lambda rows: rows[:4], "has 4 different rows in text, label, where at least 5 are needed: one in 5 is held out"),
        (lambda rows: rows[:1] * 50, "has 1 different rows"),
        (lambda rows: [row | {"text": row["text"] + " " * i} for i, row in enumerate(rows[:1] * 50)], "has 1 different rows"),
        (lambda rows: changed(rows, 6, text=" "), r"row 7 of my\.jsonl has an empty text; remove or fill it"),
        (lambda rows: changed(rows, 6, text=None), r"row 7 of my\.jsonl has an empty text"),
        (lambda rows: changed(rows, 6, label=None), r"row 7 of my\.jsonl has an empty label"),
        (lambda rows: changed(rows, 6, label=2), r"row 7 of my\.jsonl has label '2'; allowed are terrible, great, or 0, 1"),
        (
            lambda rows: [row | {"label": "so"} for row in rows],
            "row 1 of .* has label 'so'; allowed are .*: correct it, or name",
        ),
        (lambda rows: [row | {"label": 1} for row in rows], r"all rows of my\.jsonl have label '1'; add rows of another class"),
        (lambda rows: [row | {"text": [row["text"]]} for row in rows], r"row 1 of .*: text is \['film 0'\], where one text"),
        (
            lambda rows: [row | {"text": {"a": row["text"]}} for row in rows],
            r"row \d+ of .* has text {'a': 'film \d+'} where a text should be",
        ),
    ],
)
def test_rows_that_make_no_task(here, change, message):
    write(here / "my.jsonl", change(ROWS))
    with pytest.raises(ValueError, match=message):
        load_task(described())


def changed(rows, index, **values):
    return [*rows[:index], rows[index] | values, *rows[index + 1 :]]


def test_labels_that_may_mean_two_things(here):
    with pytest.raises(ValueError, match=r"label '0' of my.jsonl may be a candidate's number or another one's text"):
        load_task(described(candidates=("1", "0")))
    assert load_task(described(candidates=("1", "0"), labels=("1", "0"))).sample().train


def test_choices_and_answers_that_are_none(here):
    write(here / "choices.csv", changed(CHOICES, 3, two="It was 3. "))
    with pytest.raises(ValueError, match=r"row 4 of choices.csv: 'It was 3.' is there twice among"):
        load_task(described("choices.csv", "{start}", ("{one}", "{two}")))
    write(here / "numbers.parquet", changed(QUESTIONS, 3, number="3\nor 4"))
    with pytest.raises(ValueError, match=r"row 4 of numbers.parquet: the answer '3\\nor 4' has several lines"):
        load_task(described("numbers.parquet", "{text}", (), answer="{number}"))


def test_missing_values_of_parquet(here):
    table = {"text": [f"film {n}" for n in range(10)], "year": [1.0, float("nan"), None] + [2.0] * 7, "label": [0, 1] * 5}
    datasets.Dataset.from_dict(table).to_parquet(here / "my.parquet")
    with pytest.raises(ValueError, match=r"row 2 of my.parquet has an empty year"):
        load_task(described("my.parquet", "{text} ({year})"))
    assert load_task(described("my.parquet")).sample(0, 2, 1, 1)


# --- every command


def test_finetune_resumes_and_notices_what_changed(here):
    words = ("finetune", "--out=run", "--task=my.jsonl", *SMALL)
    first = command(*words, *OWN)
    assert first.status == 0, first.errors
    assert "mezo on my, tiny-random-llama" in first.out
    record = load_record("run/record.json")
    assert json.loads(record["config"]["task"]) == {
        "data": "my.jsonl",
        "prompt": "{text} It was",
        "candidates": ["terrible", "great"],
    }
    assert set(record["data"]) == {"train", "dev", "test"}
    before = (here / "run" / "record.json").read_bytes()
    assert command(*words, *OWN).status == 0
    assert (here / "run" / "record.json").read_bytes() == before
    other = command(*words, "--prompt={text} It is", "--candidates", *WORDS)
    assert other.status == 1
    assert "run holds another run (task " in other.errors
    write(here / "my.jsonl", [row | {"text": row["text"].replace("film", "book")} for row in ROWS])
    renamed = command(*words, *OWN)
    assert renamed.status == 1
    assert "the examples of train and dev and test are no longer what run was started with" in renamed.errors
    write(here / "my.jsonl")
    assert command(*words, *OWN).status == 0
    assert command("replay", "run", "--out=model").status == 0


def test_answers_are_written(here):
    words = ("finetune", "--out=run", "--task=numbers.parquet", *SMALL, "--prompt={text} How many?", "--answer={number}")
    completed = command(*words)
    assert completed.status == 0, completed.errors
    assert "f1" in completed.out


def test_evaluate_takes_files_beside_names(here):
    words = ("evaluate", "--model=tiny-random-llama", "--task", "my.jsonl", "reviews_sentence", "--test=4", "--out=r.json")
    completed = command(*words, *OWN)
    assert completed.status == 0, completed.errors
    assert "tiny-random-llama on my, zero-shot, 4 examples" in completed.out
    record = load_record("r.json")
    assert list(record["result"]) == [described(), "reviews_sentence"]
    assert record["config"]["task"] == list(record["result"])
    assert "prompt" not in record["config"]


@pytest.mark.slow
def test_measure_metatrain_and_evolve_take_files(here):
    tiny = ("--model=tiny-random-llama", *OWN)
    few = ("--steps=1", "--train=8", "--batch_size=4")
    for words in (
        ("measure", *tiny, "--task=my.jsonl", "--examples=4", "--probes=2", "--record=blocks.json"),
        ("metatrain", *tiny, "--tasks=my.jsonl,reviews_sentence", "--steps=2", "--period=2", "--train=8", "--out=meta"),
        ("evolve", *tiny, "--tasks=my.jsonl", "--pairs=1", *few, "--dev=4", "--out=evolved"),
    ):
        completed = command(*words)
        assert completed.status == 0, completed.errors
    record = load_record("meta/record.json")
    assert record["config"]["tasks"] == f"{described()},reviews_sentence"
    assert [step["task"] for step in record["result"]["steps"]] == ["my", "reviews_sentence"]


def test_names_with_commas_between_them_may_be_descriptions():
    one, other = described(prompt="{text}, it was"), described("my.csv", "{a}, {b}", ("{c}", '"}}'))
    assert TaskNames(f"sst2, {one} ,{other},rte").task_names == ["sst2", one, other, "rte"]
    assert TaskNames("sst2,,rte,").task_names == ["sst2", "", "rte", ""]


@pytest.mark.slow
def test_a_plan_has_a_description_as_it_is(here):
    own = {"data": "my.jsonl", "prompt": "{text} It was", "candidates": list(WORDS)}
    sizes = {"train": 8, "dev": 4, "test": 4, "eval_every": 1}
    plan = {
        "base": {"model": "tiny-random-llama", "steps": 1, "batch_size": 4, **sizes},
        "tasks": {"mine": {"task": own, "lr": 1e-3}},
        "methods": {"MeZO": {"optimizer": "mezo"}},
        "search": {"factor": 2, "extend": 0, "seeds": [9]},
        "seeds": [0],
    }
    (here / "plan.yaml").write_text(json.dumps(plan))
    completed = command("study", "plan.yaml", "--out=runs", "--record=all.json")
    assert completed.status == 0, completed.errors
    with pytest.raises(ValueError, match="lacks the column film"):
        check_plan(plan | {"tasks": {"mine": {"task": own | {"prompt": "{film}"}, "lr": 1e-3}}})
    with pytest.raises(ValueError, match="a task of your own has data and prompt"):
        check_plan(plan | {"tasks": {"mine": {"task": {"data": "my.jsonl"}, "lr": 1e-3}}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("finetune", "--out=x", "--prompt={text}"),
            "error: --prompt is for a file of your own (.jsonl, .csv, .parquet); name",
        ),
        (
            ("finetune", "--out=x", "--task=my.jsonl"),
            "error: my.jsonl needs --prompt '{text} It was', say, and --candidates or",
        ),
        (("finetune", "--out=x", "--task=my.jsonl", "--prompt={text}"), "error: my.jsonl needs candidates to choose from"),
        (("finetune", "--out=x", "--task=no.csv", *OWN), "error: there is no file no.csv; give the path of one that"),
        (("evaluate", "--task", "sst2", "--labels", "a", "b"), "error: --labels is for a file of your own"),
        (("metatrain", "--out=x", "--tasks=my.jsonl"), "error: my.jsonl needs --prompt"),
        (("metatrain", "--out=x", '--tasks={"data"'), "error: tasks has a description that is no JSON"),
    ],
)
def test_the_command_line_refuses(here, words, message):
    completed = command(*words)
    assert completed.status == 1
    assert completed.errors.startswith(message)
    assert completed.errors.count("\n") == 1
    assert not (here / "x").exists()


# --- the Python way

MODULE = """
from zolab.tasks import Example, LocalFile, Task


class Mine(Task):
    name = "mine"
    source = LocalFile("my.jsonl", ("text",), labels=(0, 1))
    dev = 8

    def template(self, row):
        return Example(f"{row['text']} It was", (" terrible", " great"), row["label"])


class Bare(Task):
    name = "bare"


class Other:
    pass
"""


@pytest.fixture
def module(here, monkeypatch):
    (here / "own_module.py").write_text(MODULE)
    (here / "broken_module.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(here)
    yield
    sys.modules.pop("own_module", None)


def test_a_class_by_its_import_path(module):
    task = load_task("own_module:Mine", autocast=True)
    assert task.autocast
    assert task.sample(2) == load_task(described()).sample(2)
    completed = command("finetune", "--out=run", "--task=own_module:Mine", *SMALL)
    assert completed.status == 0, completed.errors
    assert load_record("run/record.json")["config"]["task"] == "own_module:Mine"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_module:Nothing", "own_module:Nothing is no subclass of zolab.tasks.Task; name one"),
        ("own_module:Other", "is no subclass"),
        ("own_module:LocalFile", "is no subclass"),
        ("own_module:Bare", "own_module:Bare lacks source and template, which a task has; add them"),
        ("broken_module:Mine", r"broken_module cannot be imported \(SystemExit: 3\)"),
        ("no_such_module:Mine", r"no_such_module cannot be imported \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("own_module:", "'own_module:' is no import path of a task; write package.module:Class"),
        (".own_module:Mine", "is no import path"),
        ("own_module:Mine()", "is no import path"),
    ],
)
def test_a_path_that_leads_to_no_task(module, path, message):
    with pytest.raises(ValueError, match=message):
        load_task(path)


def test_a_file_of_a_class_is_read_anew(here):
    source = LocalFile("my.jsonl", ("text",), labels=(0, 1))
    before = source.rows("train")[0]
    write(here / "my.jsonl", [row | {"text": f"{row['text']}!"} for row in ROWS])
    assert source.rows("train")[0]["text"] == before["text"] + "!"
    write(here / "my.jsonl", changed(ROWS, 5, label=7))
    with pytest.raises(ValueError, match=r"row 6 of my\.jsonl has label 7; allowed are \(0, 1\)"):
        [part[i] for part in (source.rows("train"), source.rows("test")) for i in range(len(part))]
