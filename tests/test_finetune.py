"""The loop: records, resume after a real kill to the bit, refusals before any work."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import command

from zolab import Trajectory, replay
from zolab.models import load_model
from zolab.records import load_record, sealed
from zolab.runs.finetune import Config, finetune

CONFIG = Config(
    model="tiny-random-llama", lr=1e-3, steps=24, eval_every=6, batch_size=4, train=40, dev=16, test=16, schedule="linear"
)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


def lasting(record):
    return {key: value for key, value in record.items() if key not in ("timing", "command")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return out, run(CONFIG, out)


def test_the_record_says_everything(finished):
    out, done = finished
    record = load_record(out / "record.json")
    assert record == done.record
    assert record["config"]["lr"] == 1e-3
    assert record["result"]["forwards"] == 48
    assert [step["step"] for step in record["steps"]] == list(range(24))
    assert record["steps"][0]["lrs"] == [1e-3]
    assert record["steps"][12]["lrs"] == [pytest.approx(5e-4)]
    assert [e["step"] for e in record["evaluations"] if e["split"] == "dev"] == [0, 6, 12, 18, 24]
    best = min((e for e in record["evaluations"] if e["split"] == "dev"), key=lambda e: e["loss"])
    assert record["result"]["best_step"] == best["step"]
    assert record["versions"]["torch"].startswith("2.")
    assert record["timing"]["peak_bytes"] > 1e6
    assert len(record["timing"]["seconds"]) >= 24
    assert not list(out.glob(".*tmp"))


def test_the_model_returned_is_the_best_on_dev(finished):
    _, done = finished
    dev = done.task.evaluate(done.model, done.tokenizer, done.examples.dev)
    assert dev.loss == done.record["result"]["dev"]["loss"]


def test_the_trajectory_rebuilds_the_model(finished):
    out, done = finished
    base, _ = load_model(CONFIG.model)
    assert not equal(weights(base), weights(done.model))
    replay(base, Trajectory.load(out / "trajectory.npz"))
    assert equal(weights(base), weights(done.model))


def test_a_finished_run_is_only_read(finished):
    out, done = finished
    before = (out / "log.jsonl").read_bytes()
    again = run(CONFIG, out)
    assert again.record == done.record
    assert equal(weights(again.model), weights(done.model))
    assert (out / "log.jsonl").read_bytes() == before


def test_the_same_configuration_gives_the_same_bits(finished, tmp_path):
    _, done = finished
    again = run(CONFIG, tmp_path)
    assert lasting(again.record) == lasting(done.record)
    assert equal(weights(again.model), weights(done.model))


@pytest.mark.parametrize("keep", ["half a line", "between step and evaluation", "before the record"])
def test_every_place_to_die_is_a_place_to_go_on_from(finished, tmp_path, keep):
    out, done = finished
    lines = (out / "log.jsonl").read_bytes().splitlines(keepends=True)
    steps = [i for i, line in enumerate(lines) if b'"event": "step"' in line]
    content = {
        "half a line": b"".join(lines[: steps[9]]) + lines[steps[9]][:30],
        "between step and evaluation": b"".join(lines[: steps[11] + 1]),
        "before the record": b"".join(lines[:-1]),
    }[keep]
    (tmp_path / "log.jsonl").write_bytes(content)
    again = run(CONFIG, tmp_path)
    assert lasting(again.record) == lasting(done.record)
    assert equal(weights(again.model), weights(done.model))


def test_early_stopping(tmp_path):
    stopped = run(replace(CONFIG, lr=0.0, patience=2, steps=60), tmp_path)
    assert stopped.record["result"]["steps"] == 12
    assert stopped.record["result"]["best_step"] == 0


def test_another_configuration_in_the_same_folder_is_refused(finished):
    out, _ = finished
    before = (out / "record.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run \(lr 0.001 there, 0.002 here\)"):
        run(replace(CONFIG, lr=2e-3), out)
    assert (out / "record.json").read_bytes() == before


def test_overwrite_starts_afresh(tmp_path):
    run(CONFIG, tmp_path)
    other = run(replace(CONFIG, steps=2), tmp_path, overwrite=True)
    assert len(other.record["steps"]) == 2
    before = (tmp_path / "record.json").read_bytes()
    with pytest.raises((ValueError, OSError)):
        run(replace(CONFIG, model="tiny-random-nothing"), tmp_path, overwrite=True)
    assert (tmp_path / "record.json").read_bytes() == before


def test_a_lost_record_is_made_again_from_the_log(finished, tmp_path):
    out, done = finished
    (tmp_path / "log.jsonl").write_bytes((out / "log.jsonl").read_bytes())
    assert run(CONFIG, tmp_path).record == done.record
    assert (tmp_path / "record.json").exists()


def test_a_lost_trajectory_is_made_again_from_the_log(finished, tmp_path):
    out, done = finished
    for name in ("log.jsonl", "record.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    run(CONFIG, tmp_path)
    base, _ = load_model(CONFIG.model)
    replay(base, Trajectory.load(tmp_path / "trajectory.npz"))
    assert equal(weights(base), weights(done.model))


def test_overwriting_does_not_need_a_whole_log(finished, tmp_path):
    (tmp_path / "log.jsonl").write_text("{oops}\n" * 3)
    with pytest.raises(ValueError, match=r"line 1 of .* is damaged .*--overwrite"):
        run(CONFIG, tmp_path)
    assert lasting(run(CONFIG, tmp_path, overwrite=True).record) == lasting(finished[1].record)


def test_a_refused_run_leaves_nothing_in_the_way(tmp_path):
    for wrong in ({"model": "tiny-random-roberta", "task": "sst2"}, {"model": "nobody/nothing"}, {"batch_size": 1000}):
        with pytest.raises((ValueError, OSError)):
            run(replace(CONFIG, **{"task": "rotten_tomatoes", **wrong}), tmp_path)
        assert not list(tmp_path.iterdir())


def test_another_base_model_is_refused(tmp_path):
    base, tokenizer = load_model("tiny-random-llama")
    for part in (base, tokenizer):
        part.save_pretrained(tmp_path / "base")
    config = replace(CONFIG, model=str(tmp_path / "base"), steps=2)
    run(config, tmp_path / "run")
    with torch.no_grad():
        next(base.parameters()).add_(1)
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"the base model's weights are no longer what .* was started with"):
        run(config, tmp_path / "run")
    completed = command("replay", tmp_path / "run", f"--out={tmp_path / 'model'}")
    assert completed.status == 1
    assert "the base model's weights are no longer" in completed.errors
    assert not (tmp_path / "model").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    from zolab.records.log import RunLog

    log = RunLog(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="another process"):
        run(CONFIG, tmp_path)
    log.close()


def test_a_damaged_log_checkpoint_or_record_is_named(finished, tmp_path):
    out, _ = finished
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join([*lines[:3], "{oops}\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"line 4 of .*log\.jsonl is damaged"):
        run(CONFIG, tmp_path)
    (tmp_path / "log.jsonl").write_text("".join(lines[:20]))
    (tmp_path / "weights-5.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"weights-5\.safetensors is damaged .* Delete it"):
        run(CONFIG, tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        load_record(tmp_path / "record.json")
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        load_record(tmp_path / "record.json")


def test_a_full_disk_never_costs_the_previous_checkpoint(tmp_path, monkeypatch):
    config = replace(CONFIG, checkpoint_every=5)
    saved, save_file = [], sealed.save_file

    def full(tensors, path, metadata):
        saved.append(path)
        if len(saved) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*weights-15\.safetensors .*No space left.*free some space"):
        run(config, tmp_path)
    assert (tmp_path / "weights-10.safetensors").exists()
    assert not list(tmp_path.glob(".*tmp"))
    monkeypatch.setattr(sealed, "save_file", save_file)
    resumed = run(config, tmp_path)
    whole = run(config, tmp_path / "whole")
    assert lasting(resumed.record) == lasting(whole.record)


def test_too_little_space_is_reported_before_the_first_step(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="GB free and checkpoints need"):
        run(replace(CONFIG, checkpoint_every=5), tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_an_unwritable_folder_is_reported_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file"):
        run(CONFIG, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "tiny-random-gpt9"}, "gpt9"),
        ({"task": "nope"}, "unknown task 'nope'"),
        ({"dtype": "int4"}, "int4"),
        ({"device": "abacus"}, "abacus"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'; choose mezo"),
        ({"schedule": "wavy"}, "unknown schedule 'wavy'"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 41}, "exceeds the 40 training examples"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_settings_are_refused(tmp_path, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(replace(CONFIG, **change), tmp_path)


def test_the_command_line_explains_every_option():
    help_text = " ".join(command("finetune", "--help").out.split())
    for name, field in Config.__dataclass_fields__.items():
        assert f"--{name}" in help_text
        assert " ".join(field.metadata["help"].split())[:40] in help_text
    assert "replay" in command("--help").out


def test_the_command_line_reports_errors_in_one_sentence(tmp_path):
    done = command("finetune", f"--out={tmp_path / 'x'}", "--task=nope")
    assert done.status == 1
    assert done.errors.startswith("error: unknown task 'nope'")
    assert "Traceback" not in done.errors
    assert not (tmp_path / "x").exists()


def test_replay_says_what_is_in_its_way(finished, tmp_path):
    (tmp_path / "file").touch()
    for arguments, sentence in (
        ((str(finished[0]), f"--out={tmp_path / 'file'}"), "file is there already"),
        ((str(tmp_path / "nope"), f"--out={tmp_path / 'model'}"), "the run is not finished, or is elsewhere"),
    ):
        done = command("replay", *arguments)
        assert done.status == 1
        assert sentence in done.errors
        assert "Traceback" not in done.errors


def test_the_command_line_replays_a_run(finished, tmp_path):
    out, done = finished
    completed = command("replay", str(out), f"--out={tmp_path / 'model'}")
    assert completed.status == 0, completed.errors
    model, _ = load_model(str(tmp_path / "model"))
    assert equal(weights(model), weights(done.model))


def test_progress_is_one_line_that_counts_steps(tmp_path, capfd):
    finetune(replace(CONFIG, steps=3), tmp_path)
    captured = capfd.readouterr()
    assert "3/3" in captured.out + captured.err
    assert "accuracy" in captured.out + captured.err


def test_no_absolute_paths_in_the_record(finished):
    out, _ = finished
    assert str(out) not in json.dumps(load_record(out / "record.json"))
    assert os.environ.get("HOME", "/root") + "/" not in json.dumps(load_record(out / "record.json"))
