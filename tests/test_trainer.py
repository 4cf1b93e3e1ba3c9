"""`transformers.Trainer` with our optimizers: the steps of a plain loop, accumulated batches, schedules, several samples."""

import copy

import pytest
import torch
from small import equal, weights
from transformers import TrainingArguments

from zolab import GRZO, MeZO, replay
from zolab.models import load_model
from zolab.optim import METHODS
from zolab.runs.trainer import ZeroOrderTrainer

ROWS = [{"input_ids": torch.arange(3 + i, 9 + i), "labels": torch.arange(3 + i, 9 + i)} for i in range(8)]


@pytest.fixture(scope="module")
def base():
    return load_model("tiny-random-llama")[0]


def trained(folder, base, method=MeZO, own=None, **arguments):
    """The Trainer, its model and its optimizer after its epochs over `ROWS`, in their order."""
    model = copy.deepcopy(base)
    optimizer = method(model.named_parameters(), lr=1e-3, seed=3, **(own or {}))
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "lr_scheduler_type": "constant", **arguments}
    quiet = {
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
    }
    args = TrainingArguments(str(folder), **quiet, **settings)
    trainer = ZeroOrderTrainer(model=model, args=args, train_dataset=ROWS, optimizer=optimizer)
    trainer.train()
    return trainer, model, optimizer


def loss_of(model, rows):
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    return model(**batch).loss


@pytest.mark.parametrize("samples", [1, 2])
def test_its_steps_are_those_of_a_plain_loop(tmp_path, base, samples):
    own = {"samples": samples}
    _, model, optimizer = trained(tmp_path, base, own=own)
    other = copy.deepcopy(base)
    plain = MeZO(other.named_parameters(), lr=1e-3, seed=3, **own)
    for start in range(0, 8, 2):
        plain.step(lambda start=start: loss_of(other, ROWS[start : start + 2]))
    assert optimizer.trajectory.records == plain.trajectory.records
    assert equal(weights(model), weights(other))


def test_accumulated_batches_are_one_step(tmp_path, base):
    _, model, optimizer = trained(tmp_path, base, gradient_accumulation_steps=2)
    other = copy.deepcopy(base)
    plain = MeZO(other.named_parameters(), lr=1e-3, seed=3)
    for start in (0, 4):
        parts = ROWS[start : start + 2], ROWS[start + 2 : start + 4]
        plain.step(lambda parts=parts: sum(loss_of(other, part).item() for part in parts) / 2)
    assert optimizer.trajectory.records == plain.trajectory.records
    assert equal(weights(model), weights(other))


@pytest.mark.parametrize("name", ["mezo", "adamezo", "hizoo"])
def test_a_schedule_is_followed_and_the_run_replays(tmp_path, base, name):
    trainer, model, optimizer = trained(tmp_path, base, METHODS[name], lr_scheduler_type="linear", num_train_epochs=2)
    rates = [record.lrs[0] for record in optimizer.trajectory.records]
    assert rates == pytest.approx([1e-3 * (1 - step / 8) for step in range(8)])
    assert trainer.state.global_step == optimizer.steps == 8
    assert trainer.state.log_history[-1]["train_loss"] > 0
    again = copy.deepcopy(base)
    replay(again, optimizer.trajectory)
    assert equal(weights(again), weights(model))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, GRZO])
def test_optimizers_that_would_take_no_step_are_refused(tmp_path, base, optimizer):
    model, args = copy.deepcopy(base), TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match=f"one loss a batch, which {optimizer.__name__} is not"):
        ZeroOrderTrainer(model=model, args=args, train_dataset=ROWS, optimizer=optimizer(model.parameters(), lr=1e-3))
