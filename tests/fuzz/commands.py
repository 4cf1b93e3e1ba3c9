"""Whole commands on folders whose files were changed: what they print, and what they leave behind."""

import atexit
import contextlib
import io
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from zolab.__main__ import main
from zolab.records import load_record

from .loaders import Loader, text_of

SMALL = ["--model=tiny-random-llama", "--steps=4", "--batch_size=2", "--train=4", "--dev=2"]
FINETUNE = ["finetune", "--task=reviews_sentence", "--test=2", "--eval_every=2", "--checkpoint_every=2", *SMALL]
FINETUNE += ["--lr=3e-2", "--seed=1"]  # with which step 2 is the best of 4
METATRAIN = ["metatrain", "--tasks=reviews_sentence", "--period=2", "--hidden=3", "--outer=adam", "--lr_zo=1e-4"]
METATRAIN += ["--model=tiny-random-llama", "--steps=4", "--batch_size=2", "--train=4"]
EVOLVE = ["evolve", "--tasks=reviews_sentence", "--pairs=2", *SMALL]
PLAN = """
base: {model: tiny-random-llama, steps: 2, batch_size: 2, train: 4, dev: 2, test: 2, eval_every: 1}
tasks: {sentence: {task: reviews_sentence, lr: 1.0e-3}}
methods: {MeZO: {optimizer: mezo}}
search: {factor: 2, extend: 0, seeds: [9]}
seeds: [0]
"""


def output_of(words: list[str]) -> str:
    """What a command prints. Raises RuntimeError with what it says where it fails."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(words)
    if code:
        raise RuntimeError(errors.getvalue().rstrip("\n"))
    return out.getvalue()


def result_of(record: Path) -> str:
    """A record without what differs between two runs."""
    content = load_record(record)
    return text_of([content["config"], content["result"], content.get("steps")])


@cache
def finished(command: str) -> Path:
    """A folder in which a command ran to its end."""
    folder = Path(mkdtemp(prefix="zolab-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    output_of([*{"finetune": FINETUNE, "metatrain": METATRAIN, "evolve": EVOLVE}[command], f"--out={folder}"])
    return folder


def _stopped(command: str, folder: Path, event: str, count: int) -> None:
    """Put into a folder what a command that was killed after some events of a kind leaves."""
    shutil.copytree(finished(command), folder, dirs_exist_ok=True)
    lines, count_of_kind = [], 0
    for line in (folder / "log.jsonl").read_bytes().splitlines(keepends=True):
        count_of_kind += json.loads(line)["event"] == event
        if count_of_kind > count:
            break
        lines.append(line)
    (folder / "log.jsonl").write_bytes(b"".join(lines))
    for name in ("record.json", "trajectory.npz", "card.json", "pertnn.safetensors"):
        (folder / name).unlink(missing_ok=True)


def _make_run(folder: Path) -> None:
    _stopped("finetune", folder, "step", 3)


def _make_finished(folder: Path) -> None:
    shutil.copytree(finished("finetune"), folder, dirs_exist_ok=True)


def _go_on(folder: Path, name: str) -> str:
    output_of([*FINETUNE, f"--out={folder}"])
    return result_of(folder / "record.json")


def _replay(folder: Path, name: str) -> str:
    output_of(["replay", str(folder), f"--out={folder / 'model'}"])
    return (folder / "model" / "model.safetensors").read_bytes().hex()


def _make_meta(folder: Path) -> None:
    finished("metatrain")
    output_of([*METATRAIN, f"--out={folder}"])
    log = folder / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if json.loads(line)["event"] == "period")
    log.write_bytes(b"".join(lines[: last + 1]))
    for name in ("record.json", "card.json", "pertnn.safetensors"):
        (folder / name).unlink(missing_ok=True)


def _go_on_meta(folder: Path, name: str) -> str:
    output_of([*METATRAIN, f"--out={folder}"])
    return result_of(folder / "record.json")


def _make_evolved(folder: Path) -> None:
    _stopped("evolve", folder, "pair", 1)


def _go_on_evolved(folder: Path, name: str) -> str:
    output_of([*EVOLVE, f"--out={folder}"])
    return result_of(folder / "record.json")


def _study(folder: Path) -> list[str]:
    return ["study", str(folder / "plan.yaml"), f"--out={folder / 'runs'}", f"--record={folder / 'all.json'}"]


def _make_study(folder: Path) -> None:
    (folder / "plan.yaml").write_text(PLAN)
    output_of(_study(folder))
    (folder / "all.json").unlink()


def _go_on_study(folder: Path, name: str) -> Any:
    output_of(_study(folder))
    result = load_record(folder / "all.json")["result"]
    return text_of([result["search"], [[cell["lr"], cell["curve"]] for cell in result["cells"]]])


CELL = "runs/sentence-MeZO-lr0.001-seed9"
STATE = {"log.jsonl": "log", "state-4.safetensors": "tensors"}
COMMANDS = (
    Loader("finetune", {"log.jsonl": "log", "weights-2.safetensors": "tensors"}, _make_run, _go_on, True, batch=10),
    Loader("finished", {"record.json": "json", "log.jsonl": "log"}, _make_finished, _go_on, True, batch=10),
    Loader("replay", {"trajectory.npz": "zip", "record.json": "json"}, _make_finished, _replay, True, batch=10),
    Loader("metatrain", STATE, _make_meta, _go_on_meta, True, batch=10),
    Loader("evolve", {"log.jsonl": "log"}, _make_evolved, _go_on_evolved, True, batch=10),
    Loader(
        "study",
        {"runs/plan.json": "json", "runs/prepared-sentence.json": "json", f"{CELL}/outcome.json": "json"},
        _make_study,
        _go_on_study,
        True,
        batch=10,
    ),
)
