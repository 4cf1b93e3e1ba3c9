"""The command line: one style of help and of refusals, examples that run, and nothing heavy imported to explain an option."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from small import command

from zolab import __main__ as program
from zolab.__main__ import main
from zolab.cli import COMMANDS
from zolab.cli.errors import reported
from zolab.cli.parser import Parser, add_settings, parser_of, sentence_of, settings_of
from zolab.l2l.config import BUDGET_NAMES, OUTER_NAMES, RULE_NAMES, SCALES, EvolveConfig, MetaConfig
from zolab.records import load_record
from zolab.runs.config import Config, option
from zolab.runs.names import DTYPE_NAMES, FIRST_ORDER_NAMES, METHOD_NAMES, TASK_NAMES

ROOT = Path(__file__).resolve().parent.parent
ONE = {
    "tasks": {"sentence": {"task": "reviews_sentence", "lr": 1e-3}},
    "methods": {"MeZO": {"optimizer": "mezo"}},
    "search": {"factor": 2, "extend": 0, "seeds": [1]},
    "seeds": [0],
}
HEAVY = ("torch", "numpy", "numba", "transformers", "datasets", "scipy", "pandas", "matplotlib", "huggingface_hub")


def refused(capsys, words):
    """The exit status and the one line that a command line is refused with."""
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    return status, captured.err


def python(code, *, check=True):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=check).stdout


# --- help


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in output
        assert sentence_of(name) in output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_a_sentence_defaults_and_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python -m zolab {name}")
    assert sentence_of(name) in output
    assert sentence_of(name).endswith(".")
    assert len(sentence_of(name)) <= 128
    program, example = output.rstrip().splitlines()[-1].split(f"zolab {name} ")
    assert program == "  python -m "
    assert parser_of(name).parse_args(shlex.split(example))
    flat = " ".join(output.split())
    for action in parser_of(name)._actions:
        assert action.help
        if isinstance(action.default, str) and action.default != argparse.SUPPRESS:
            assert f"(default: {action.default})" in flat or not action.default


def test_the_help_loads_nothing_heavy():
    """Counted in modules, not in seconds: a busy machine is slow, too."""
    code = f"""
import contextlib, io, json, sys
from zolab.__main__ import main
heavy = {{}}
for words in ([], ["--help"], *([name, "--help"] for name in {COMMANDS!r})):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
    heavy[" ".join(words)] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(heavy))
"""
    heavy = json.loads(python(code))
    assert len(heavy) == len(COMMANDS) + 2
    assert not any(heavy.values()), heavy


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import zolab", HEAVY),
        ("from zolab.l2l import MetaConfig, EvolveConfig, GRADIENTS", HEAVY),
        ("from zolab.runs.config import Config; Config()", HEAVY),
        ("from zolab import MeZO", ("numba", "filelock", "transformers", "datasets", "scipy", "pandas", "matplotlib")),
    ],
)
def test_importing_zolab_loads_only_what_it_uses(statement, heavy):
    # torch brings filelock along where it finds it, so what counts is what comes on top of torch
    before = "" if "torch" in heavy else "import torch; "
    code = f"import sys; {before}known = set(sys.modules); {statement}; print(*set(sys.modules) - known)"
    assert not set(heavy) & set(python(code).split())


@pytest.mark.slow
def test_lazy_names_are_there_for_every_way_of_asking():
    code = """
import zolab, zolab.l2l, zolab.l2l.evolution, zolab.optim
assert set(zolab.__all__) <= set(dir(zolab)) and zolab.MeZO is zolab.optim.MeZO
assert set(zolab.l2l.__all__) <= set(dir(zolab.l2l)) and callable(zolab.l2l.evolve) and callable(zolab.l2l.meta_train)
from zolab import *
from zolab.l2l import *
assert METHODS["mezo"] is MeZO and Direction and MetaStep
for module in (zolab, zolab.l2l):
    try:
        module.nothing
    except AttributeError as error:
        assert "has no attribute 'nothing'" in str(error)
print("fine")
"""
    assert python(code) == "fine\n"


@pytest.mark.parametrize("package", ["zolab", "zolab.l2l"])
def test_type_checkers_see_every_lazy_name(package):
    import ast

    source = Path(import_module(package).__file__).read_text()
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    names = {alias.name for node in block.body for alias in node.names}
    assert names == set(import_module(package).__all__)


def test_listed_names_are_those_of_the_tables():
    from zolab import METHODS
    from zolab.l2l.evolution import WAYS
    from zolab.l2l.train import OUTER
    from zolab.models import DTYPES, SHIPPED
    from zolab.pertnn import BUDGETS
    from zolab.runs.first_order import FIRST_ORDER
    from zolab.studies import shipped
    from zolab.tasks import TASKS
    from zolab.theory.judged import GROUPINGS
    from zolab.tiny_reviews.make import MAKERS
    from zolab.tiny_reviews.recipe import RECIPES

    assert (tuple(METHODS), tuple(FIRST_ORDER)) == (METHOD_NAMES, FIRST_ORDER_NAMES)
    assert tuple(TASKS) == TASK_NAMES
    assert tuple(DTYPES) == DTYPE_NAMES
    assert (tuple(GROUPINGS), tuple(OUTER), tuple(WAYS)) == (RULE_NAMES, OUTER_NAMES, tuple(SCALES))
    assert tuple(str(name).lower() for name in BUDGETS) == BUDGET_NAMES
    assert RECIPES.keys() == MAKERS.keys() == SHIPPED.keys()
    assert all(name in parser_of("ship").format_help() for name in shipped.SHIPPED)


# --- refusals


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["fintune"], 2, "invalid choice: 'fintune'"),
        (["--steps=3"], 2, "required: COMMAND"),
        (["finetune"], 2, "required: --out (python -m zolab finetune --help tells more)"),
        (["finetune", "--out=x", "--lrr=3"], 2, "there is no option --lrr=3; did you mean --lr?"),
        (["finetune", "--out=x", "--batch", "3"], 2, "there is no option --batch 3; did you mean --batch_size?"),
        (["finetune", "--out=x", "--lr=fast"], 2, "--lr: invalid float value: 'fast'"),
        (["finetune", "--out=x", "--train=many"], 2, "--train: invalid int value: 'many'"),
        (["finetune", "--out=x", "--schedule=wavy"], 2, "--schedule: invalid choice: 'wavy' (choose from"),
        (["finetune", "--out=x", "--autocast=perhaps"], 2, "--autocast: write yes or no, not 'perhaps'"),
        (["finetune", "--out=x", "--task=nope"], 1, "unknown task 'nope'"),
        (["finetune", "--out=x", "--eps=0"], 1, "eps must be > 0, got 0.0"),
        (["evaluate", "--test", "3", "4"], 1, "--test has 2 numbers for 1 tasks"),
        (["evaluate", "--task", "sst2", "sst2"], 1, "--task names a task twice"),
        (["evaluate", "--data-seed=-1"], 1, "data_seed must be at least 0"),
        (["replay", "nowhere", "--out=x"], 1, "there is no nowhere/record.json"),
        (["verify", "nowhere"], 1, "not as recorded: nowhere, refused: there is no nowhere/record.json"),
        (["metatrain", "--out=x", "--period=0"], 1, "period must be at least 1"),
        (["evolve", "--out=x", "--tasks=a,,b"], 1, "tasks 'a,,b' names an empty task"),
        (["measure", "--record=r.json", "--probes=0"], 1, "probes must be at least 2, for a spread; got 0"),
        (["measure", "--record=."], 1, ". cannot be written"),
        (["published", "nowhere.pth"], 1, "nowhere.pth"),
        (["published", "x.pth", "--config=nowhere"], 1, "there is no nowhere; give a config.json"),
        (["pretrain", "gpt"], 2, "invalid choice: 'gpt'"),
        (["pretrain", "tiny-reviews", "--steps=0"], 1, "steps must be at least 1 and seed at least 0, got 0 and 0"),
        (["pretrain", "tiny-reviews", "--threads=0"], 1, "threads must be at least 1, got 0"),
        (["pretrain", "tiny-reviews-critic", "--out=file"], 1, "file is there already; choose another folder"),
        (["ship", "nothing", "--out=x"], 1, "no shipped fine-tuner is called 'nothing'; choose tiny-reviews"),
    ],
)
def test_a_refusal_is_one_sentence(words, status, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    exit_status, message = refused(capsys, words)
    assert (exit_status, sentence in message) == (status, True), message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


PATHS = [
    (name, (action.option_strings or [action.dest])[0])
    for name in COMMANDS
    for action in parser_of(name)._actions
    if action.metavar in ("FOLDER", "FILE", "PLAN", "RUN")
]


@pytest.mark.parametrize(("name", "option"), PATHS)
@pytest.mark.parametrize("path", ["", " ", "a\0b"])
def test_an_empty_path_is_refused(name, option, path, capsys):
    with pytest.raises(SystemExit) as end:  # of the parser alone: a path that passes would start a run
        parser_of(name).parse_args([f"{option}={path}"] if option.startswith("-") else [path])
    assert end.value.code == 2
    assert "write a path, not " in capsys.readouterr().err


def test_a_path_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parser_of("evaluate").parse_args(["--out", "~/x.json"]).out == tmp_path / "x.json"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OverflowError("too large"), "error: too large\n"),
        (MemoryError(), "error: there is not enough memory; choose smaller numbers or a smaller model.\n"),
        (ValueError("one\ntwo " + "x" * 10**6), "error: one two " + "x" * 992 + " ...\n"),
        (KeyboardInterrupt(), "stopped.\n"),
    ],
)
def test_an_error_is_one_bounded_line(error, sentence, capsys):
    def command():
        raise error

    assert reported(command) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert capsys.readouterr() == ("", sentence)


def test_ctrl_c_that_a_library_made_an_error_of_its_own_is_still_ctrl_c(capsys):
    def command():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module") from error

    assert reported(command) == 130
    assert capsys.readouterr().err == "stopped.\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import sys; from zolab.cli.errors import reported; sys.exit(reported(lambda: print('x\\n' * 10**6)))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "x\n"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 141)


# --- options


@dataclass(frozen=True)
class Settings:
    data_seed: int = option(0, "a number, 95 % of the time")
    rate: float = option(1e-3, "a rate")
    name: str = option("a", "a name", ("a", "b"))
    train: int | None = option(None, "a number or none")
    budget: str | None = option("paper", "a name or the word none")
    fast: bool = option(False, "a flag")
    decay: bool = option(True, "a flag that is on")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", {}),
        ("--data_seed 3", {"data_seed": 3}),
        ("--data-seed=3 --rate=1e-5", {"data_seed": 3, "rate": 1e-5}),
        ("--name b --train 100", {"name": "b", "train": 100}),
        ("--train none --budget none", {"train": None, "budget": "none"}),
        ("--fast --no_decay", {"fast": True, "decay": False}),
        ("--fast=False --no-decay", {"decay": False}),
        ("--fast true --decay false", {"fast": True, "decay": False}),
        ("--decay", {}),
    ],
)
def test_settings_become_options(words, changed):
    parser = Parser("test", "A test.")
    add_settings(parser, Settings)
    assert settings_of(parser.parse_args(shlex.split(words)), Settings) == Settings(**changed)
    assert "95 % of the time" in parser.format_help()


@pytest.mark.parametrize(("name", "settings"), [("finetune", Config), ("metatrain", MetaConfig), ("evolve", EvolveConfig)])
def test_every_setting_is_an_option_that_may_be_written_out(name, settings):
    defaults = settings()
    words = [f"--{field}={value}" for field, value in vars(defaults).items()]
    assert settings_of(parser_of(name).parse_args(["--out=x", *words]), settings) == defaults
    assert settings_of(parser_of(name).parse_args(["--out=x"]), settings) == defaults


def test_a_methods_own_settings_are_one_word():
    words = ["--out=x", "--optim_args", "horizon=10, betas=(0.7, 0.9)", "--train", "100"]
    config = settings_of(parser_of("finetune").parse_args(words), Config)
    assert (config.optim_args, config.train) == ("horizon=10, betas=(0.7, 0.9)", 100)


# --- running


def test_the_console_script_is_the_same_program():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["zolab"].split(":")
    assert getattr(import_module(module), function) is main


def test_a_module_run_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "zolab", "ship", "--out=x"], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (
        2,
        "error: the following arguments are required: NAME (python -m zolab ship --help tells more).\n",
    )


RUNNING = (
    "finetune",
    "evaluate",
    "replay",
    "verify",
    "metatrain",
    "evolve",
    "measure",
    "watch",
)  # in this order: replay needs a run


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    """But for what needs the project's folder or a file that is not ours, changes the package, or takes minutes."""
    monkeypatch.chdir(tmp_path)
    for name in RUNNING:
        assert main([name, *shlex.split(import_module(f"zolab.cli.{name}").EXAMPLE)]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip()
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert made == {"example", "evaluation.json", "model", "pertnn", "evolved", "blocks.json"}


def test_offsets_of_a_model_folder_are_found_wherever_home_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    task, sizes = "--task=reviews_sentence", ["--train=40", "--dev=8", "--test=8", "--steps=1", "--batch_size=4"]
    assert command("finetune", "--model=tiny-reviews", task, *sizes, "--calibrate=16", f"--out={tmp_path / 'run'}").status == 0
    assert command("replay", tmp_path / "run", f"--out={tmp_path / 'mine'}").status == 0
    for name in ("~/mine", str(tmp_path / "mine")):
        assert "with the offsets of its run" in command("evaluate", f"--model={name}", task, "--test=8").out
    shown = command("finetune", "--model=~/mine", task, *sizes, f"--out={tmp_path / 'more'}")
    assert "~/mine has offsets of its run, which this run leaves out; --calibrate fits new ones" in shown.out


def test_calibration_wants_every_class():
    shown = command("evaluate", "--model=tiny-reviews", "--task=reviews_sentence", "--test=8", "--calibrate=1")
    assert shown.status == 1
    assert "none of the 1 examples for calibration is" in shown.errors


def test_fewer_examples_than_asked_for_are_said(tmp_path):
    small = ["--model=tiny-reviews", "--task=reviews_sentence", "--train=40", "--dev=8", "--steps=1", "--batch_size=4"]
    shown = command("finetune", *small, "--test=99999", f"--out={tmp_path / 'run'}")
    assert "test examples instead of 99999" in shown.out


def test_settings_that_a_rule_of_gradients_does_not_have_are_refused(tmp_path):
    small = ["--model=tiny-reviews", "--task=reviews_sentence", "--optimizer=adam", "--optim_args=capturable=True"]
    shown = command("finetune", *small, f"--out={tmp_path / 'run'}")
    assert shown.status == 1
    assert "adam has no setting capturable; choose betas, eps, fused, momentum, recompute" in shown.errors


def test_a_record_replaces_records_alone(tmp_path):
    evaluate = ["evaluate", "--model=tiny-random-llama", "--task=reviews_sentence", "--test=4"]
    data, run = tmp_path / "own.csv", tmp_path / "run"
    data.write_text("text,label\ngood,1\n")
    (tmp_path / "plan.json").write_text('{"tasks": {}}')
    run.mkdir()
    for name in ("log.jsonl", "record.json"):
        (run / name).write_text("")
    (run / "record.json").write_text('{"config": {}, "result": {}}')
    for path, message in (
        (data, "is no record"),
        (tmp_path / "plan.json", "is no record"),
        (run / "record.json", "of the run"),
    ):
        before = path.read_bytes()
        shown = command(*evaluate, f"--out={path}")
        assert (shown.status, shown.errors.count(message)) == (1, 1), shown.errors
        assert path.read_bytes() == before
    for _ in range(2):  # the second one replaces the first one's
        assert command(*evaluate, f"--out={tmp_path / 'own.json'}").status == 0


def test_a_shipped_model_is_made_as_its_recipe_says_or_elsewhere(tmp_path, monkeypatch):
    shown = command("pretrain", "tiny-reviews", "--steps=2")
    assert shown.errors == "error: the shipped model has its own steps: give --out, a new folder, for another one.\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    shown = command("pretrain", "tiny-reviews", "--steps=2", f"--out={tmp_path / 'mine'}")
    assert "is there already; choose another folder" in shown.errors
    assert (tmp_path / "mine" / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study"], "; the same command goes on"),
        (["metatrain"], "; the same command goes on from its last period"),
        (["finetune", "--overwrite"], "; without --overwrite, the same command goes on"),
        (["evaluate"], "; the same command begins again"),
        (["watch"], ".\n"),
    ],
)
def test_after_ctrl_c_the_next_start_is_told(words, said, monkeypatch, capsys):
    def stop(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_run", stop)
    assert main(words) == 130
    assert capsys.readouterr().err.startswith(f"stopped{said}")


def test_a_folder_of_another_command_is_not_called_damaged_alone(tmp_path):
    small = ["--model=tiny-random-llama", "--batch_size=4", "--train=16", "--steps=2"]
    task = ["--task=reviews_sentence", "--dev=4", "--test=4"]
    assert command("finetune", *small, *task, f"--out={tmp_path / 'run'}").status == 0
    shown = command("metatrain", *small, "--tasks=reviews_sentence", f"--out={tmp_path / 'run'}")
    assert "another command wrote it" in shown.errors
    assert "choose another folder" in shown.errors
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "plan.json").write_text("{}")
    assert "is the folder of a study" in command("finetune", *small, *task, f"--out={tmp_path / 'study'}").errors
    shown = command("metatrain", *small, "--tasks=reviews_sentence", f"--out={tmp_path / 'study'}")
    assert "is the folder of a study" in shown.errors
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"base": {"model": "tiny-random-llama", "steps": 1}, **ONE}))
    shown = command("study", plan, f"--out={tmp_path / 'run'}", f"--record={tmp_path / 'record.json'}")
    assert "holds a run; choose another folder for a study" in shown.errors


def test_workers_and_ways_of_a_study(tmp_path):
    plan = ROOT / "notebooks" / "plans" / "03_methods.yaml"
    where = [plan, f"--out={tmp_path / 'out'}", f"--record={tmp_path / 'record.json'}"]
    for way in ("--dry_run", "--print_array"):
        assert "workers must be a whole number of at least 1, got 0" in command("study", *where, way, "--workers=0").errors
    with pytest.raises(SystemExit):
        main(["study", *map(str, where), "--dry_run", "--share=0/7"])
    spaced = shutil.copy(plan, tmp_path / "my plan.yaml")
    assert "--job-name=zolab-my-plan\n" in command("study", spaced, *where[1:], "--print_array").out


def test_texts_of_a_command_are_recorded_as_they_are(tmp_path):
    words = ["finetune", "--task", "/data/my.csv", "--prompt", "/{text} It was", "--candidates", "/a", "/b", "--out=/tmp/x"]
    assert program._without_folders(words) == [
        *("finetune", "--task", "my.csv", "--prompt", "/{text} It was", "--candidates", "/a", "/b", "--out=x")
    ]
    words = ["--label", "/y", "/data/z", "--cand", "/a", "/b", "--prompt=/x", "/home/x"]
    assert program._without_folders(words) == ["--label", "/y", "z", "--cand", "/a", "/b", "--prompt=/x", "x"]


def test_a_file_with_a_comma_in_its_name_is_one_task(tmp_path):
    data = tmp_path / "my, data.csv"
    data.write_text("text,label\n" + "".join(f"film {k},{k % 2}\n" for k in range(60)))
    own = ["--prompt={text} It was", "--candidates", " bad", " good"]
    small = ["--model=tiny-random-llama", "--batch_size=4", "--train=16", "--steps=2", "--hidden=4"]
    shown = command("metatrain", *small, f"--tasks={data}", *own, f"--out={tmp_path / 'pertnn'}")
    assert shown.status == 0, shown.errors


def test_an_answer_has_no_labels(tmp_path):
    data = tmp_path / "own.csv"
    data.write_text("text,label\ngood,1\n")
    for more in (["--label=nosuch"], ["--labels", "a", "b"]):
        shown = command("finetune", f"--task={data}", "--prompt={text}", "--answer={label}", *more, f"--out={tmp_path / 'x'}")
        assert "no label says which candidate is right" in shown.errors


def test_what_a_run_prints_is_in_its_record(tmp_path):
    small = ["--model=tiny-reviews", "--task=reviews_sentence", "--batch_size=4", "--train=40", "--dev=8", "--test=16"]
    out = command("finetune", *small, "--steps=4", "--eval_every=2", "--lr=1e-3", f"--out={tmp_path / 'run'}").out
    result = load_record(tmp_path / "run" / "record.json")["result"]
    assert f"kept step {result['best_step']} of 4" in out
    for split in ("train", "test"):
        before, after = (result[split][when] for when in ("before", "after"))
        assert f"  {split:5} loss {before['loss']:.3f} -> {after['loss']:.3f} " in out
        assert f"{100 * before['metric']:.1f} % -> {100 * after['metric']:.1f} %   ({after['examples']} examples)" in out


def test_a_spread_needs_two(tmp_path):
    for name in ("examples", "probes"):
        shown = command("measure", "--model=tiny-random-llama", f"--{name}=1", f"--record={tmp_path / 'b.json'}")
        assert f"{name} must be at least 2, for a spread; got 1" in shown.errors


def test_a_maps_seed_is_checked_by_name(tmp_path):
    words = ["map", "--model=tiny-random-llama", "--tasks=reviews_sentence", "--seed=5000000000"]
    shown = command(*words, f"--out={tmp_path / 'map'}", f"--record={tmp_path / 'map.json'}")
    assert "data_seed must" in shown.errors
