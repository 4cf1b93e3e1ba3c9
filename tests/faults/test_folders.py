"""Full disks, folders that go away, strangers in a folder, and files that were changed."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from processes import Process, eventually
from small import command

from zolab.l2l import EvolveConfig, MetaConfig, evolve, meta_train
from zolab.models import load_model
from zolab.records import load_record, save_record
from zolab.records.files import new_folder, temporary_for
from zolab.records.log import RunLog
from zolab.records.sealed import read_tensors, seal, write_tensors
from zolab.runs.config import Config
from zolab.runs.finetune import finetune

CONFIG = Config(
    model="tiny-reviews", task="reviews_sentence", lr=5e-4, steps=12, eval_every=6, batch_size=4, train=40, dev=16, test=16
)
TINY = {"model": "tiny-reviews", "tasks": "reviews_sentence", "batch_size": 4, "train": 20}
META = MetaConfig(**TINY, steps=6, period=2, lr_zo=1e-4, hidden=8)
LONG = ["--model=tiny-reviews", "--task=reviews_sentence", "--train=60", "--dev=20", "--test=20", "--lr=5e-4", "--batch_size=4"]


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


def lasting(record):
    return {key: value for key, value in record.items() if key not in ("timing", "command")}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run(CONFIG, out)


def steps(folder):
    log = folder / "log.jsonl"
    return log.read_text().count('"event": "step"') if log.exists() else 0


def flips(path, count, seed=0):
    """The content of a file with one bit changed, again and again; at the end the file is as it was."""
    content, chance = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        at = chance.randrange(8 * len(content))
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        yield changed
    path.write_bytes(content)


# What holds a folder


def test_overwrite_does_not_take_a_folder_from_a_running_process(tmp_path):
    process = Process(["finetune", *LONG, "--steps=2000", f"--out={tmp_path / 'run'}"], tmp_path / "printed")
    try:
        eventually(lambda: steps(tmp_path / "run") > 2)
        completed = command("finetune", *LONG, "--steps=2000", f"--out={tmp_path / 'run'}", "--overwrite")
        assert completed.status == 1
        assert "another process is running" in completed.errors
        before = steps(tmp_path / "run")
        eventually(lambda: steps(tmp_path / "run") > before)
    finally:
        process.end()


def test_a_log_that_was_removed_does_not_let_a_second_process_in_silently(tmp_path):
    first = RunLog(tmp_path / "log.jsonl")
    first.append("start")
    (tmp_path / "log.jsonl").unlink()
    second = RunLog(tmp_path / "log.jsonl")
    second.append("start")
    with pytest.raises(OSError, match="was removed or replaced while the run went on"):
        first.append("step")
    with pytest.raises(OSError, match="another process"):
        RunLog(tmp_path / "log.jsonl")
    second.append("step")
    second.close()
    first.close()
    assert len(RunLog(tmp_path / "log.jsonl").of("step")) == 1


@pytest.mark.parametrize("name", ["record.json", "trajectory.npz", "offsets.json", "adapter/adapter_model.safetensors"])
def test_results_without_their_log_are_not_overwritten_unasked(tmp_path, name):
    foreign = tmp_path / "run" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(ValueError, match=f"has {name} without a log of the run: choose another folder, or overwrite it"):
        finetune(CONFIG, tmp_path / "run", progress=False)
    assert foreign.read_text() == "mine"


def test_a_log_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("letters")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").symlink_to(tmp_path / "precious")
    for overwrite in (False, True):
        with pytest.raises(OSError, match=r"cannot write to .*log\.jsonl"):
            run(CONFIG, tmp_path / "run", overwrite=overwrite)
    assert (tmp_path / "precious").read_text() == "letters"


def test_a_folder_removed_in_the_middle_ends_the_run_with_what_happened(tmp_path):
    process = Process(["finetune", *LONG, "--steps=5000", f"--out={tmp_path / 'run'}"], tmp_path / "printed")
    eventually(lambda: steps(tmp_path / "run") > 2)
    shutil.rmtree(tmp_path / "run")
    assert process.wait() == 1
    assert "was removed or replaced while the run went on" in process.printed
    assert "Traceback" not in process.printed


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_goes_on_to_the_same_bits(finished, tmp_path, number):
    _, whole = finished
    words = [f"--{name}={value}" for name, value in vars(CONFIG).items() if value is not None]
    for at in (1, 5, 9):
        process = Process(["finetune", *words, f"--out={tmp_path / 'run'}"], tmp_path / "printed")
        eventually(lambda at=at, process=process: steps(tmp_path / "run") >= at or process.process.exitcode is not None)
        process.send(number)
        assert process.wait() in (0, 130, -number)
        assert "Traceback" not in process.printed
    resumed = run(CONFIG, tmp_path / "run")
    assert lasting(resumed.record) == lasting(whole.record)
    assert torch.equal(weights(resumed.model), weights(whole.model))


# Disks


@pytest.mark.parametrize("limit", [300, 2_000, 6_000])
def test_a_full_disk_costs_one_sentence_and_no_event(finished, tmp_path, limit):
    _, whole = finished
    words = [f"--{name}={value}" for name, value in vars(CONFIG).items() if value is not None]
    process = Process(["finetune", *words, f"--out={tmp_path / 'run'}"], tmp_path / "printed", limit=limit)
    assert process.wait() == 1
    assert process.printed.count("error: could not write") == 1
    assert "free some space" in process.printed
    assert "Traceback" not in process.printed
    assert lasting(run(CONFIG, tmp_path / "run").record) == lasting(whole.record)


@pytest.mark.parametrize("kind", ["checkpoint", "state", "replay"])
def test_large_files_on_a_full_disk(finished, tmp_path, kind):
    words = {
        "checkpoint": ["finetune", *LONG, "--steps=12", "--checkpoint_every=2", f"--out={tmp_path / 'run'}"],
        "state": ["metatrain", *(f"--{name}={value}" for name, value in vars(META).items()), f"--out={tmp_path / 'run'}"],
        "replay": ["replay", finished[0], f"--out={tmp_path / 'run'}"],
    }[kind]
    process = Process(words, tmp_path / "printed", limit=100_000)
    assert process.wait() == 1
    assert "free some space" in process.printed
    assert "Traceback" not in process.printed
    left = [path.name for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".safetensors", ".bin")]
    assert left == []
    assert kind != "replay" or not (tmp_path / "run").exists()


def test_a_short_write_is_not_left_in_the_log(tmp_path, monkeypatch):
    log = RunLog(tmp_path / "log.jsonl")
    log.append("start")
    whole, write = (tmp_path / "log.jsonl").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:7]))
    with pytest.raises(OSError, match="free some space"):
        log.append("step", loss=1.0)
    monkeypatch.undo()
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    log.append("step", loss=1.0)
    log.close()
    assert [entry["event"] for entry in RunLog(tmp_path / "log.jsonl").events] == ["log", "start", "step"]


def test_a_disk_that_becomes_read_only_or_full_in_the_middle(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        process = Process(["finetune", *LONG, "--steps=5000", f"--out={disk / 'run'}"], tmp_path / "printed")
        eventually(lambda: steps(disk / "run") > 2)
        with open(disk / "filler", "wb") as filler, pytest.raises(OSError, match="No space"):
            while True:
                os.write(filler.fileno(), bytes(512))
        assert process.wait() == 1
        assert "free some space" in process.printed
        assert "Traceback" not in process.printed
        (disk / "filler").unlink()
        before = steps(disk / "run")
        process = Process(["finetune", *LONG, "--steps=5000", f"--out={disk / 'run'}"], tmp_path / "printed")
        eventually(lambda: steps(disk / "run") > before)
        process.end()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_killed_processes_left_half_written_is_swept(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / ".record.json.123.tmp").write_text("{")
    (tmp_path / "run" / ".model.123.tmp").mkdir()
    run(CONFIG, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in finished[0].iterdir())


def test_weights_are_as_readable_as_the_umask_says(finished, tmp_path):
    assert command("replay", finished[0], f"--out={tmp_path / 'model'}").status == 0
    mask = os.umask(0)
    os.umask(mask)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask for file in (tmp_path / "model").iterdir())


# Content that was changed


def test_changed_bits_of_a_log_are_noticed(finished, tmp_path):
    """A line that was changed is refused, or was the last and counts as torn."""
    path = tmp_path / "log.jsonl"
    path.write_bytes((finished[0] / "log.jsonl").read_bytes())
    log = RunLog(path)
    log.close()
    for _ in flips(path, 150):
        if b"\n" not in path.read_bytes()[-1:]:
            again = RunLog(path)
            again.close()
            assert again.events == log.events[:-1]
            continue
        with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
            RunLog(path)


def test_a_log_without_a_line_is_noticed(finished, tmp_path):
    lines = (finished[0] / "log.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(len(lines) - 1):
        (tmp_path / "log.jsonl").write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        with pytest.raises(ValueError, match=r"log\.jsonl is damaged"):
            RunLog(tmp_path / "log.jsonl")


def test_changed_bits_of_a_record_are_noticed(finished, tmp_path):
    record = load_record(finished[0] / "record.json")
    shutil.copy(finished[0] / "record.json", tmp_path)
    for changed in flips(tmp_path / "record.json", 150):
        with suppress(ValueError):
            if json.loads(changed) == json.loads(json.dumps(seal(record))):  # another space between two words of JSON
                continue
        with pytest.raises(ValueError, match=r"record\.json"):
            load_record(tmp_path / "record.json")


def test_changed_bits_of_weights_are_noticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors({"a": torch.randn(5), "b": torch.randn(3, 4).half()}, path, {"run": "r", "step": 3})
    for _ in flips(path, 150):
        with pytest.raises(ValueError, match="is damaged"):
            read_tensors(path)
    assert read_tensors(path)[1] == {"run": "r", "step": 3}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_records_never_hold_what_is_no_number(tmp_path, number):
    with pytest.raises(ValueError, match=r"cannot hold result\.a\.1 = (nan|inf), which is no number"):
        save_record({"config": {}, "result": {"a": [1.0, number]}}, tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


# Content of something else


def test_a_foreign_checkpoint_is_not_resumed_from(tmp_path):
    """As after the log and the results were deleted by hand: checkpoints of another run are left."""
    config = replace(CONFIG, checkpoint_every=4)
    run(replace(config, lr=1e-3), tmp_path / "run")
    for name in ("log.jsonl", "record.json", "trajectory.npz"):
        (tmp_path / "run" / name).unlink()
    process = Process(
        ["finetune", *(f"--{k}={v}" for k, v in vars(config).items() if v is not None), f"--out={tmp_path / 'run'}"],
        tmp_path / "printed",
    )
    eventually(lambda: steps(tmp_path / "run") >= 9 or process.process.exitcode is not None)
    process.end()
    assert lasting(run(config, tmp_path / "run").record) == lasting(run(config, tmp_path / "whole").record)


@pytest.fixture
def base(tmp_path):
    model, tokenizer = load_model("tiny-reviews")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def changed_weights(base):
    model, _ = load_model(str(base))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(base)


def changed_config(base):
    content = json.loads((base / "config.json").read_text())
    content["rms_norm_eps"] = 1e-3
    (base / "config.json").write_text(json.dumps(content))


def changed_tokenizer(base):
    content = json.loads((base / "tokenizer.json").read_text())
    first, second = list(content["model"]["vocab"])[40:42]
    vocabulary = content["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (base / "tokenizer.json").write_text(json.dumps(content))


STARTS = {
    "finetune": lambda base, out: run(replace(CONFIG, model=str(base), steps=2), out),
    "metatrain": lambda base, out: meta_train(replace(META, model=str(base), steps=2), out, progress=False),
    "evolve": lambda base, out: evolve(
        EvolveConfig(**{**TINY, "model": str(base)}, pairs=1, steps=1, dev=4), out, progress=False
    ),
}


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed_weights, "the base model's weights are no longer what"),
        (changed_config, r"the base model's config\.json is no longer what"),
        (changed_tokenizer, "the tokenizer is no longer what"),
    ],
)
def test_nothing_goes_on_with_another_base(base, tmp_path, kind, change, sentence):
    STARTS[kind](base, tmp_path / "run")
    STARTS[kind](base, tmp_path / "run")
    change(base)
    with pytest.raises(ValueError, match=sentence):
        STARTS[kind](base, tmp_path / "run")


def test_nothing_goes_on_with_other_data(tmp_path, monkeypatch):
    """Neither a finished run shows old numbers for new data, nor is a file of the same time and size mistaken for another."""
    rows = [json.dumps({"sentence": f"text {i} of many", "label": i % 2}) for i in range(60)]
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path / "data"))
    config = replace(CONFIG, task="sst2", steps=2, train=20, dev=10, test=10)
    first = run(config, tmp_path / "run")
    before = (folder / "validation.jsonl").stat()
    other = [json.dumps(json.loads(row) | {"label": 1 - json.loads(row)["label"]}) for row in rows]
    (folder / "validation.jsonl").write_text("\n".join(other) + "\n")
    os.utime(folder / "validation.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match="the examples of test are no longer what"):
        run(config, tmp_path / "run")
    second = run(config, tmp_path / "another")
    accuracies = [done.record["result"]["test"]["before"]["metric"] for done in (first, second)]
    assert accuracies[0] == pytest.approx(1 - accuracies[1])


@pytest.mark.parametrize("period", [2, 4, 6])
def test_a_state_that_is_ahead_of_its_log_is_not_mistaken(tmp_path, monkeypatch, period):
    """Killed after the state of a period was written and before its line was: the period is done again."""
    append = RunLog.append

    def stop(self, event, **fields):
        if event == "period" and fields["steps"] == period:
            raise KeyboardInterrupt
        append(self, event, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(RunLog, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            meta_train(META, tmp_path / "run", progress=False)
    resumed, whole = (meta_train(META, tmp_path / name, progress=False) for name in ("run", "whole"))
    assert resumed.record["result"] == whole.record["result"]
    assert torch.equal(weights(resumed.pertnn), weights(whole.pertnn))
    assert [path.name for path in (tmp_path / "run").glob("state*")] == ["state-6.safetensors"]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path):
    """Processes in containers often have the same number."""
    left = temporary_for(tmp_path / "new")
    left.mkdir()
    (left / "half").write_text("written")
    with new_folder(tmp_path / "new") as partial:
        (partial / "file").write_text("all")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file"]
