"""A finished run is made again from its trajectory and compared with what its record says; what was changed is noticed."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from small import command

from zolab.models import fingerprint, load_model
from zolab.records import load_record, save_record
from zolab.runs import verify as module
from zolab.runs.finetune import Config, finetune
from zolab.runs.verify import TOLERANCE, verify

CONFIG = Config(model="tiny-random-llama", lr=1e-3, steps=12, eval_every=3, batch_size=4, train=16, dev=8, test=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    done = finetune(CONFIG, out, progress=False)
    assert done.record["result"]["best_step"] >= 3
    return out, done


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def resealed(folder, change):
    """The record with a change, whose seal fits: what only a claim that is made again can show."""
    record = load_record(folder / "record.json")
    change(record)
    save_record(record, folder / "record.json")


def rows(completed):
    """Verdict of each check that was printed, by its name."""
    return {line[:18].strip(): line[18:27].strip() for line in completed.out.splitlines() if line.startswith("  ")}


def test_a_run_that_is_as_it_says(finished):
    out, done = finished
    best = done.record["result"]["best_step"]
    assert done.record["result"]["weights"] == fingerprint(done.model) != fingerprint(load_model(CONFIG.model)[0])
    completed = command("verify", out)
    assert (completed.status, completed.errors) == (0, "")
    assert rows(completed) == {f"dev, step {best}": "ok", "weights": "ok", f"test, step {best}": "ok"}
    assert completed.out.count("exactly") == 2
    assert f"{best} steps replayed" in completed.out


def test_every_evaluation_up_to_the_best_step_can_be_made_again(finished):
    out, done = finished
    best = done.record["result"]["best_step"]
    completed = command("verify", out / "trajectory.npz", "--curve")
    assert completed.status == 0, completed.errors
    assert [name for name in rows(completed) if name.startswith("dev")] == [
        f"dev, step {step}" for step in range(0, best + 1, 3)
    ]
    assert set(rows(completed).values()) == {"ok"}


def test_threads_are_the_runs_and_then_what_they_were(copy, monkeypatch):
    before, seen, replay = torch.get_num_threads(), [], module.replay
    wanted = 1 if before > 1 else 2
    resealed(copy, lambda record: record["machine"].update(threads=wanted))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "replay", lambda *given: seen.append(torch.get_num_threads()) or replay(*given))
    assert [check.name for check in verify(copy) if check.name == "weights"]
    assert seen == [wanted]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_of_a_gpu_is_checked_and_replayed_without_one(copy, tmp_path):
    resealed(copy, lambda record: record["config"].update(device="cuda:1"))
    completed = command("verify", copy)
    assert completed.status == 0
    assert rows(completed)["weights"] == "ok"
    assert "allowed 0.0001" in completed.out
    resealed(copy, lambda record: record["result"].update(weights="0" * 16))
    other = command("verify", copy)
    assert other.status == 0
    assert "last bits may differ" in other.out
    assert command("replay", copy, f"--out={tmp_path / 'model'}").status == 0
    refused = command("replay", copy, "--device=cuda", f"--out={tmp_path / 'other'}")
    assert "device='cuda' cannot be used here" in refused.errors


@pytest.mark.parametrize(("name", "place"), [("record.json", 200), ("trajectory.npz", 100)])
def test_a_changed_file_is_refused(copy, name, place):
    content = bytearray((copy / name).read_bytes())
    content[place] ^= 1
    (copy / name).write_bytes(content)
    completed = command("verify", copy)
    assert completed.status == 1
    assert f"  refused: {copy / name}" in completed.out
    assert completed.errors.startswith("error: not as recorded: ")
    assert completed.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda record: record["result"].update(weights="0" * 16), "weights"),
        (lambda record: record["result"]["dev"].update(loss=record["result"]["dev"]["loss"] - 1e-9), "dev"),
        (lambda record: record["result"]["test"]["after"].update(metric=1.0), "test"),
        (lambda record: record["result"]["test"]["after"].update(examples=1000), "test"),
    ],
)
def test_a_false_claim_is_noticed_though_its_seal_fits(copy, change, wrong):
    resealed(copy, change)
    completed = command("verify", copy)
    assert completed.status == 1
    assert [name.split(",")[0] for name, word in rows(completed).items() if word == "differs"] == [wrong]
    assert f"not as recorded: {wrong}" in completed.errors


def test_an_older_record_tells_nothing_of_the_weights(copy):
    resealed(copy, lambda record: record["result"].pop("weights"))
    completed = command("verify", copy)
    assert completed.status == 0
    assert rows(completed)["weights"] == "unknown"
    assert "the record is older than digests of weights" in completed.out


@pytest.mark.parametrize(("gap", "status"), [(0.5, 0), (2.0, 1)])
def test_on_another_machine_a_loss_may_differ_a_little(copy, gap, status):
    def change(record):
        record["machine"]["processor"] = "another one"
        record["result"]["dev"]["loss"] += gap * TOLERANCE["float32"]

    resealed(copy, change)
    completed = command("verify", copy)
    assert completed.status == status
    assert "allowed 0.0001" in completed.out
    assert command("verify", copy, "--tolerance=1e-3").status == 0


def test_a_trajectory_of_another_run_is_refused(copy, tmp_path):
    finetune(replace(CONFIG, seed=1), tmp_path / "other", progress=False)
    shutil.copy(tmp_path / "other" / "trajectory.npz", copy)
    completed = command("verify", copy)
    assert completed.status == 1
    assert "is not of the run that record.json tells of" in completed.out
    assert command("replay", copy, f"--out={tmp_path / 'model'}").status == 1


def test_one_run_does_not_cost_the_others(finished, tmp_path):
    finetune(replace(CONFIG, optimizer="sgd", steps=3, schedule="constant"), tmp_path / "sgd", progress=False)
    completed = command("verify", tmp_path / "nowhere", tmp_path / "sgd", finished[0])
    assert completed.status == 1
    assert "refused: there is no" in completed.out
    assert "is a first-order run, which keeps no trajectory" in completed.out
    assert rows(completed)["weights"] == "ok"
    assert "and 1 more." in completed.errors


def test_another_base_model_is_refused(tmp_path):
    base, tokenizer = load_model("tiny-random-llama")
    for part in (base, tokenizer):
        part.save_pretrained(tmp_path / "base")
    finetune(replace(CONFIG, model=str(tmp_path / "base"), steps=3), tmp_path / "run", progress=False)
    assert command("verify", tmp_path / "run").status == 0
    with torch.no_grad():
        next(base.parameters()).add_(1)
    base.save_pretrained(tmp_path / "base")
    completed = command("verify", tmp_path / "run")
    assert completed.status == 1
    assert "the base model's weights are no longer what" in completed.out


def test_settings_of_a_later_version_are_named(copy):
    resealed(copy, lambda record: record["config"].update(wings=2))
    assert "has settings that are not known here" in command("verify", copy).out


def test_a_tolerance_that_is_none_is_refused(finished):
    for value in ("-1", "inf", "nan"):
        completed = command("verify", finished[0], f"--tolerance={value}")
        assert (completed.status, completed.out) == (1, "")
        assert completed.errors.startswith("error: tolerance must be at least 0 and finite")


def test_the_digest_is_in_the_record_file(finished):
    assert json.loads((finished[0] / "record.json").read_text())["result"]["weights"]


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    completed = command("verify", tmp_path / "rows.jsonl")
    assert completed.status == 1
    assert "rows.jsonl is a file; give the folder of a finished run" in completed.errors
