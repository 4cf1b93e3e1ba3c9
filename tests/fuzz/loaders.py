"""Everything that is read: a small valid input of each format, and how the command line loads it."""

import hashlib
import json
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zolab.models import load_model
from zolab.optim import MeZOAdam, Trajectory, replay
from zolab.pertnn import PertNN
from zolab.pertnn.published import import_published, trace
from zolab.probe.blocks import split
from zolab.records import load_record, save_record
from zolab.records.log import RunLog
from zolab.runs.checkpoints import Checkpoints, trained
from zolab.runs.config import Config
from zolab.runs.evaluations import keep_offsets, read_offsets
from zolab.studies.compare import beside_table, final_table
from zolab.studies.outcomes import Record
from zolab.studies.plan import load_plan
from zolab.tasks import Description, load_task

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Loader:
    """A kind of input.

    Args:
        name: of it.
        files: each file that is changed, and its format in `mutations.FORMATS`.
        make: writes a valid input into an empty folder.
        load: what the command line makes of the file of a name in a folder, as a value that can be compared.
        sealed: whether other content than was written must be noticed.
        same: compares what was loaded with what was written.
        batch: how many are tried in a process.
    """

    name: str
    files: dict[str, str]
    make: Callable[[Path], None]
    load: Callable[[Path, str], Any]
    sealed: bool = False
    same: Callable[[Any, Any], bool] = operator.eq
    batch: int = 100


def hash_of(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def text_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def _make_log(folder: Path) -> None:
    log = RunLog(folder / "log.jsonl")
    log.append("start", config={"lr": 0.1, "task": "t"}, base="0" * 16)
    for step in range(4):
        log.append("step", loss=1.5, step=step, projected_grads=[0.25], lrs=[0.1], weight_decays=[0.0], losses=[1.0, 2.0])
        log.append("evaluation", step=step, split="dev", loss=0.5, metric=1.0, examples=4)
    log.close()


def _load_log(folder: Path, name: str) -> list[str]:
    log = RunLog(folder / name)
    log.close()
    return [text_of(event) for event in log.events]


def _begins(entries: list[str], written: list[str]) -> bool:
    """A log that was cut is that of a run which was stopped there."""
    return entries == written[: len(entries)]


def _make_trajectory(folder: Path) -> None:
    model = network()
    optimizer = MeZOAdam(model.named_parameters(), lr=0.01, seed=7)
    for _ in range(4):
        optimizer.step(lambda: sum(p.square().sum() for p in model.parameters()))
    optimizer.trajectory.save(folder / "trajectory.npz")


def _load_trajectory(folder: Path, name: str) -> tuple[str, str]:
    trajectory, model = Trajectory.load(folder / name), network()
    replay(model, trajectory)
    return hash_of(model), text_of([trajectory.header(), trajectory.records])


def _make_checkpoint(folder: Path) -> None:
    Checkpoints(folder, "run").save(trained(network()), 3, 3)


def _load_checkpoint(folder: Path, name: str) -> list[str]:
    """None of this run's is as good as one: its steps are replayed."""
    model, checkpoints = network(), Checkpoints(folder, "run")
    for parameter in model.parameters():
        parameter.data.zero_()
    for step in checkpoints.steps():
        checkpoints.load(model, step)
        return [str(step), hash_of(model)]
    return []


def _make_record(folder: Path) -> None:
    result = {"best_step": 3, "test": {"after": {"loss": 0.5, "metric": 1.0}}, "dev": [0.1, 0.2, None]}
    save_record(
        {"config": {"lr": 0.1, "task": "t", "model": "m"}, "result": result, "versions": {"a": "1"}}, folder / "record.json"
    )


def _make_offsets(folder: Path) -> None:
    keep_offsets({"offsets": [0.0, 1.25], "candidates": [" no", " yes"], "examples": 64, "forwards": 8}, folder)


def _make_study_record(folder: Path) -> None:
    save_record(load_record(ROOT / "figures" / "records" / "03_methods.json"), folder / "record.json")


def _load_study_record(folder: Path, name: str) -> list[str]:
    record = Record.load(folder / name)
    return [final_table(record), beside_table(record)]


def _make_pertnn(folder: Path) -> None:
    pertnn = PertNN(split(network()), 3, normalise="code", budget_weights=[1.0, 2.0, 3.0, 4.0], seed=1)
    about = {"base_model": "m", "fingerprint": "0" * 16, "training_data": "t", "licence": "MIT"}
    pertnn.save(folder, **about, metrics={"steps": 3, "sigma": {"a": 1.0}})


def _load_pertnn(folder: Path, name: str) -> list[str]:
    pertnn = PertNN.load(folder, network())
    return [pertnn.digest(), text_of(pertnn.card), str(pertnn.budget)]


PLANS = ("03_methods.yaml", "05_tiny_seeds.yaml", "06_tiny.yaml", "08_recipes.yaml", "09_tiny.yaml")


def _make_plans(folder: Path) -> None:
    for name in PLANS:
        (folder / name).write_bytes((ROOT / "notebooks" / "plans" / name).read_bytes())


def _load_plan(folder: Path, name: str) -> str:
    plan = load_plan(folder / name)
    plan.kind.names(plan)
    return text_of(plan.record())


ROWS = [{"sentence": f"a film of {count} parts", "label": count % 2} for count in range(6)]


def _make_data(folder: Path) -> None:
    (folder / "sst2").mkdir()
    for split_name in ("train", "validation"):
        (folder / "sst2" / f"{split_name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def _make_parquet(folder: Path) -> None:
    import pandas

    (folder / "sst2").mkdir()
    for split_name in ("train", "validation"):
        pandas.DataFrame(ROWS).to_parquet(folder / "sst2" / f"{split_name}.parquet")


def _load_data(folder: Path, name: str) -> str:
    os.environ["ZOLAB_DATA"] = str(folder)
    splits = load_task("sst2").sample(0, 3, 2, 3)
    return text_of([[example.prompt, example.answer] for part in (splits.train, splits.dev, splits.test) for example in part])


OWN = Description("my.csv", "{sentence} It was", ("terrible", "great"))


def _make_own(folder: Path) -> None:
    lines = ["sentence,label", *(f'"{row["sentence"]}, {count}",{row["label"]}' for count, row in enumerate(ROWS * 2))]
    (folder / "my.csv").write_text("\n".join(lines) + "\n")
    (folder / "task.json").write_text(str(OWN))


def _load_own(folder: Path, name: str) -> str:
    own = Description.parse((folder / "task.json").read_bytes().decode("utf-8", "surrogateescape"))
    splits = load_task(str(replace(own, data=str(folder / "my.csv")))).sample(0, 3, 2, 2)
    return text_of([[example.prompt, example.answer] for part in (splits.train, splits.dev, splits.test) for example in part])


def _make_model(folder: Path) -> None:
    model, tokenizer = load_model("tiny-random-llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load_folder(folder: Path, name: str) -> float:
    model, tokenizer = load_model(str(folder))
    task = load_task("reviews_sentence")
    return task.evaluate(model, tokenizer, _sentences()).loss


def _sentences() -> list[Any]:
    return load_task("reviews_sentence").sample(0, 2, 1, 2).test


def _make_published(folder: Path) -> None:
    torch.manual_seed(0)
    networks = {name: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)) for name in ("a", "b")}
    torch.save(networks, folder / "x.pth")


def _load_published(folder: Path, name: str) -> str:
    return text_of(trace(import_published(folder / name, {"a": 4, "b": 6})))


OPTIM_ARGS = {
    "mezo.txt": "sigma=[1.0, 0.5, 2.0]",
    "mezo_adam.txt": "betas=(0.7, 0.9), delta=1e-8",
    "adamezo.txt": "horizon=10, betas=(0.7, 0.9)",
    "zo_finetuner.txt": "pertnn='tiny-reviews', freeze=True",
}


def _make_optim_args(folder: Path) -> None:
    for name, text in OPTIM_ARGS.items():
        (folder / name).write_text(text)


def _load_optim_args(folder: Path, name: str) -> None:
    text = (folder / name).read_bytes().decode("utf-8", "surrogateescape")  # as Python reads the words of a command line
    Config(optimizer=name.removesuffix(".txt"), optim_args=text).validate()


MODEL = {"config.json": "json", "tokenizer.json": "json", "tokenizer_config.json": "json", "generation_config.json": "json"}
MODEL |= {"model.safetensors": "tensors"}
SST2 = ("sst2/train", "sst2/validation")
DIRECT = (
    Loader("log", {"log.jsonl": "log"}, _make_log, _load_log, True, _begins),
    Loader("trajectory", {"trajectory.npz": "zip"}, _make_trajectory, _load_trajectory, True),
    Loader("checkpoint", {"weights-3.safetensors": "tensors"}, _make_checkpoint, _load_checkpoint, True, _begins),
    Loader("record", {"record.json": "json"}, _make_record, lambda folder, name: text_of(load_record(folder / name)), True),
    Loader("offsets", {"offsets.json": "json"}, _make_offsets, lambda folder, _: text_of(read_offsets(folder)), True),
    Loader("study_record", {"record.json": "json"}, _make_study_record, _load_study_record, True),
    Loader("pertnn", {"card.json": "json", "pertnn.safetensors": "tensors"}, _make_pertnn, _load_pertnn, True),
    Loader("plan", dict.fromkeys(PLANS, "text"), _make_plans, _load_plan, batch=50),
    Loader("jsonl", {f"{name}.jsonl": "lines" for name in SST2}, _make_data, _load_data, batch=20),
    Loader("parquet", {f"{name}.parquet": "bytes" for name in SST2}, _make_parquet, _load_data, batch=20),
    Loader("own", {"my.csv": "text", "task.json": "json"}, _make_own, _load_own, batch=20),
    Loader("model", MODEL, _make_model, _load_folder, batch=20),
    Loader("published", {"x.pth": "zip"}, _make_published, _load_published),
    Loader("optim_args", dict.fromkeys(OPTIM_ARGS, "text"), _make_optim_args, _load_optim_args),
)
