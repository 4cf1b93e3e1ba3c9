"""Every command that a reader is shown is one of today: its parser takes it, and the files of ours that it reads are there."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from benchmarks.__main__ import NAMES
from zolab.cli import COMMANDS
from zolab.cli.parser import parser_of, settings_of
from zolab.runs.config import Config
from zolab.studies.commands import MOVED, todays
from zolab.studies.plan import differences
from zolab.tasks import load_task

ROOT = Path(__file__).resolve().parent.parent
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "figures" / "records").glob("*.json"))}
PAGES = [path for folder in ("", "figures", "notebooks") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES += [ROOT / "zolab" / "tiny_reviews" / "reviews" / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
PAGES += [path for folder in ("plans", "params") for path in sorted((ROOT / "notebooks" / folder).glob("*.yaml"))]
NUMBER = {"S": "0"}
"""Letters that stand for a number of the reader's."""
THEIRS = re.compile(r"runs(/.*)?|[A-Z]+(\.\w+)?|.*\bNN_.*|.*\.pth")
"""Words that stand for a file of the reader's, or name one that is made by another command or is not ours."""
COMMAND = re.compile(
    r"""(?:^(?:\w+=\S+\s)*|["(])                  # a line's beginning, or one within quotes or brackets of the shell
    (?:\.venv/bin/)?(?P<words>(?:python3?\s-m\s[\w.]+|papermill|pytest|make|zolab|torchrun|accelerate\slaunch)(?=\s|$)
    [^>|;&)"]*)                                   # what is the shell's is not read
    """,
    re.X,
)


def text_of(path):
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    if path.suffix == ".yaml":
        lines = (line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
        return "\n".join(["```", *lines, "```"])
    return path.read_text()


def commands_of(text):
    """The commands of a page, in backticks or in blocks of code, each as a list of words."""
    text = re.sub(r"where it was `[^`]*`", "", text)  # RESULTS.md quotes what a command was called at an older commit
    block = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
    lines = [line for part in block.findall(text) for line in part.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", block.sub("", text))]
    for line in lines:
        for match in COMMAND.finditer(re.sub(r"\s#\s.*", "", line)):
            yield [NUMBER.get(word, word) for word in shlex.split(match["words"])]


def are_there(*names):
    """Raise unless each of them is a file or folder of the project, seen from its own folder or from that of the notebooks."""
    for name in names:
        before, braces, after = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", str(name)).groups()
        for each in [f"{before}{part}{after}" for part in (braces or "").split(",")]:
            known = (ROOT / each).exists() or (ROOT / "notebooks" / each).exists()
            assert known or THEIRS.fullmatch(each), f"there is no {each}"


def check_zolab(name, *words):
    assert name in COMMANDS, f"there is no command {name}"
    if words in ((), ("--help",)):  # named in a sentence
        return
    parser = parser_of(name)
    options = vars(parser.parse_args(words))
    paths = {action.dest: action for action in parser._actions if isinstance(options.get(action.dest), Path)}
    for dest, action in paths.items():  # options name what is written, but for one folder that is read
        place = options[dest]
        are_there(place.parent if action.option_strings and dest != "config" else place)


def check(words):
    """Raise unless a command is understood today."""
    program, *rest = words
    if set(words) <= {"papermill", "torchrun", "accelerate", "launch"}:  # named in a sentence
        return
    if "zolab" in words:
        if called := words[words.index("zolab") + 1 :]:
            check_zolab(*called)
    elif program == "make":
        targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
        assert set(rest[:1]) <= set(targets), rest
    elif "pytest" in words:
        are_there(*(word for word in rest if word.endswith((".py", ".ipynb"))))
    elif program == "papermill":
        source, _out, *settings = [word for word in rest if word.endswith((".ipynb", ".yaml"))]
        are_there(source, *settings)
    else:
        module, *rest = words[words.index("-m") + 1 :]
        assert find_spec(module), f"there is no module {module}"
        if module == "benchmarks":
            folder = rest[rest.index("--records") + 1 :][:1] if "--records" in rest else []
            are_there(*folder)
            assert set(rest) - {"--records", *folder} <= set(NAMES), rest
        place = ROOT / module.replace(".", "/")
        source = "".join(path.read_text() for path in (place if place.is_dir() else place.parent).glob("*.py"))
        assert all(f'"{word}"' in source for word in rest if word.startswith("--")), rest


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_is_understood(path):
    for words in commands_of(text_of(path)):
        try:
            check(words)
        except (AssertionError, SystemExit, ValueError) as error:
            pytest.fail(f"`{shlex.join(words)}`: {error}")


def test_commands_are_found_wherever_a_page_shows_them():
    text = "Type `make site`, `make`, or\n`.venv/bin/python\n-m zolab results`.\n\n"
    text += "```\nX=1 python -m zolab study PLAN \\\n    --seed S > out\n"
    text += 'sbatch --wrap "python -m zolab watch runs/1b"   # python -m zolab gone\nfrom zolab import MeZO\n```\n'
    text += "Commit 1234567, where it was `python -m zolab.gone x`."
    assert sorted(map(shlex.join, commands_of(text))) == [
        "make",
        "make site",
        "python -m zolab results",
        "python -m zolab study PLAN --seed 0",
        "python -m zolab watch runs/1b",
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python -m zolab sweep x.yaml", "no command sweep"),
        ("python -m zolab study gone.yaml --out runs/x --record runs/x.json", "no gone.yaml"),
        ("python -m zolab results --out nowhere/x.md", "no nowhere"),
        ("python -m zolab.tiny study x.yaml", "no module zolab.tiny"),
        ("python -m benchmarks.step --gone", "--gone"),
        ("python -m benchmarks gone", "gone"),
        ("pytest tests/test_{optim,gone}.py", "no tests/test_gone.py"),
        ("papermill notebooks/gone.ipynb OUT.ipynb", "no notebooks/gone.ipynb"),
        ("make gone", "gone"),
    ],
)
def test_what_is_not_of_today_is_noticed(command, message):
    with pytest.raises((AssertionError, ModuleNotFoundError), match=message):
        check(shlex.split(command))


@pytest.mark.parametrize("name", [name for name, content in RECORDS.items() if "evaluations" not in content])
def test_the_command_of_a_record_makes_it_again(name):
    """What changed since an older study is what RESULTS.md says: seeds, and how often it evaluates."""
    content = RECORDS[name]
    words, config = shlex.split(todays(content, name)), content.get("config", {})
    check(words)
    if not content.get("command", "").startswith(tuple(MOVED)) or "study" not in words:
        return
    plan = yaml.safe_load((ROOT / words[words.index("study") + 1]).read_text())
    then, now = ({key: each[key] for key in ("base", "search", "seeds")} for each in (config, plan))
    then["tasks"], now["tasks"] = {key.split("@")[0]: own for key, own in config["tasks"].items()}, plan["tasks"]
    now["base"] = {**{key: "mezo" for key in ("optimizer",) if key in then["base"]}, **now["base"]}
    changed = {line.split(" is ")[0] for line in differences(now, then)}
    assert "search.seeds" in changed
    assert changed <= {"search.seeds", "seeds", "base.eval_every"}
    methods = {name.rstrip("0123456789") for name in config["methods"]}
    assert not plan.get("methods") or {name.rstrip("0123456789") for name in plan["methods"]} == methods


@pytest.mark.parametrize("name", [name for name, content in RECORDS.items() if "evaluations" in content])
def test_the_command_of_single_runs_has_their_settings(name):
    [words] = [words for words in commands_of((ROOT / "figures" / "RESULTS.md").read_text()) if "finetune" in words]
    options = parser_of("finetune").parse_args(words[words.index("finetune") + 1 :])
    now, config = vars(settings_of(options, Config)), RECORDS[name]["config"]
    now["train"] = now["train"] or load_task(now["task"]).train
    differ = {key for key in config if now[key] != config[key]}
    assert differ <= {"seed", "data_seed"}


@pytest.mark.parametrize("name", ["06_blocks_smollm2", "09_evolution"])
def test_the_defaults_of_a_kept_command_are_as_they_were(name):
    words = shlex.split(todays(RECORDS[name], name))
    command = words.index("zolab") + 1
    options = vars(parser_of(words[command]).parse_args(words[command + 1 :]))
    assert {key: options[key] for key in RECORDS[name]["config"]} == RECORDS[name]["config"]


def test_a_record_without_a_command_has_none():
    """One that was made by a call from Python."""
    assert todays({"config": {}}, "mine") == ""
