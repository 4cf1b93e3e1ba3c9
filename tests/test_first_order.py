"""SGD and Adam in the loop of the zeroth-order methods: the same numbers as a plain loop, less memory, the same record."""

import copy
from dataclasses import replace

import pytest
import torch
from small import command, equal, loss_of, network, stop_after, weights

from zolab.models import load_model
from zolab.models.gradients import recomputable
from zolab.records import load_record
from zolab.runs.config import forwards
from zolab.runs.events import RECORD
from zolab.runs.finetune import Config, batch_at, finetune
from zolab.runs.first_order import FIRST_ORDER, FirstOrder, first_order
from zolab.runs.schedules import WARM_UP, scheduler
from zolab.studies.cells import Cell
from zolab.tasks import load_task

CONFIG = Config(
    model="tiny-random-llama", optimizer="adam", lr=1e-3, steps=8, eval_every=2, batch_size=4, train=16, dev=8, test=8
)


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("adam")
    return out, run(CONFIG, out)


def plain_loop(config):
    """Adam as anybody writes it, and as studies ran it before it shared the loop: losses of steps and evaluations, weights."""
    task, (model, tokenizer) = load_task(config.task), load_model(config.model)
    examples = task.sample(config.data_seed, config.train, config.dev, config.test)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    shape = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, 1 - step / config.steps))
    losses, dev, best = [], {0: task.evaluate(model, tokenizer, examples.dev).loss}, weights(model)
    for step in range(1, config.steps + 1):
        batch = task.encode(tokenizer, batch_at(examples.train, config.batch_size, config.seed, step - 1))
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        shape.step()
        losses.append(loss.item())
        if step % config.eval_every == 0:
            dev[step] = task.evaluate(model, tokenizer, examples.dev).loss
            best = weights(model) if dev[step] == min(dev.values()) else best
    return losses, dev, best


def rates_of(name, steps):
    optimizer, rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), []
    shape = scheduler(name, optimizer, steps)
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        shape.step()
    return rates


def test_schedules_have_their_shapes():
    assert rates_of("constant", 4) == [1.0] * 4
    assert rates_of("linear", 4) == [1.0, 0.75, 0.5, 0.25]
    assert rates_of("cosine", 4) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    short = rates_of("warmup", 30)  # where the line to zero is met on the way up
    assert [short[step] for step in (0, 10, 11, 12, 29)] == pytest.approx([0.05, 0.55, 0.6, 0.6, 1 / 30])
    assert max(short) == pytest.approx(0.6)


def test_adam_gives_the_numbers_of_a_plain_loop(finished):
    _, done = finished
    losses, dev, best = plain_loop(CONFIG)
    assert [step["loss"] for step in done.record["steps"]] == losses
    assert {e["step"]: e["loss"] for e in done.record["evaluations"] if e["split"] == "dev"} == dev
    assert dev[0] > min(dev.values())
    assert equal(weights(done.model), best)


@pytest.fixture(scope="module")
def setting():
    """A task, its tokenizer's batch, and how to get the model that answers it."""
    model, tokenizer = load_model("tiny-random-llama")
    task = load_task("rotten_tomatoes")
    return task, task.encode(tokenizer, task.sample(0, 4, 1, 1).train), model


@pytest.mark.parametrize(
    ("one", "other", "own", "count"),
    [
        ("sgd", "sgd_checkpointed", {}, 4),
        ("sgd", "sgd_fused", {}, 3),
        ("sgd", "sgd_fused", {"recompute": True}, 4),
        ("adam", "adam", {"fused": True, "recompute": True}, 4),
    ],
)
def test_less_memory_is_the_same_bits(setting, one, other, own, count):
    task, batch, base = setting
    stepped = []
    for name, settings in ((one, {}), (other, own)):
        model = copy.deepcopy(base)
        optimizer = first_order(name, model, lr=1e-2, weight_decay=0.1, **settings)
        for _ in range(3):
            optimizer.step(lambda model=model: task.loss(model, batch))
        stepped.append(weights(model))
    assert equal(*stepped)
    assert not equal(stepped[0], weights(base))
    optim_args = ", ".join(f"{name}={value}" for name, value in own.items())
    assert [forwards(Config(optimizer=one), 1, 8), forwards(Config(optimizer=other, optim_args=optim_args), 1, 8)] == [
        3,
        count,
    ]


@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_step_holds_one_gradient_at_a_time(fused):
    model = network()
    optimizer = first_order("sgd_fused", model, lr=0.1, fused=fused)
    counts, take = [], optimizer._take

    def taking(rule):
        counts.append(sum(p.grad is not None for p in model.parameters()))
        take(rule)

    optimizer._take = taking
    optimizer.step(loss_of(model))
    assert counts == ([1, 1, 1, 1] if fused else [4])
    assert all(p.grad is None for p in model.parameters())


def test_recomputation_calls_each_layer_twice(setting):
    task, batch, base = setting
    model, calls = copy.deepcopy(base), {"sgd": 0, "sgd_checkpointed": 0}
    task.loss(model, batch)  # a model's first pass is checked with more of them
    for name in calls:

        def count(*_, name=name):
            calls[name] += 1

        hooks = [layer.self_attn.register_forward_pre_hook(count) for layer in recomputable(model)]
        first_order(name, model, lr=1e-3).step(lambda: task.loss(model, batch))
        for hook in hooks:
            hook.remove()
    assert calls == {"sgd": len(hooks), "sgd_checkpointed": 2 * len(hooks)}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs_with_decoupled_decay(momentum):
    model, other = network(), network()
    ours = first_order("sgd", model, lr=0.1, weight_decay=0.5, momentum=momentum)
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=momentum)
    for _ in range(5):
        ours.step(loss_of(model))
        theirs.zero_grad()
        loss_of(other)().backward()
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1 - 0.1 * 0.5)
        theirs.step()
    assert equal(weights(model), weights(other))


def test_the_record_has_the_shape_of_a_zeroth_order_one(finished, tmp_path):
    out, _ = finished
    record = load_record(out / "record.json", RECORD)
    other = run(replace(CONFIG, optimizer="mezo", schedule="constant", steps=2), tmp_path).record
    assert record.keys() == other.keys()
    assert record["steps"][0].keys() == other["steps"][0].keys()
    assert (record["steps"][0]["projected_grads"], record["steps"][0]["lrs"]) == ([], [CONFIG.lr / WARM_UP])
    assert record["config"]["schedule"] == "warmup"
    assert [e["forwards"] for e in record["evaluations"] if e["split"] == "dev"] == [0, 6, 12, 18, 24]
    assert record["result"]["test"]["after"]["step"] == record["result"]["best_step"]
    best = record["result"]["best_step"]
    assert sorted(path.name for path in out.iterdir()) == ["log.jsonl", "record.json", f"weights-{best}.safetensors"]


def test_a_finished_run_is_only_read(finished):
    out, done = finished
    before = (out / "log.jsonl").read_bytes()
    again = run(CONFIG, out)
    assert again.record == done.record
    assert equal(weights(again.model), weights(done.model))
    assert (out / "log.jsonl").read_bytes() == before


def test_a_stopped_run_says_that_it_begins_again_and_ends_the_same(finished, tmp_path, capsys, monkeypatch):
    _, done = finished
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(5, patch)
        run(CONFIG, tmp_path)
    assert list(tmp_path.glob("weights-*.safetensors"))
    again = finetune(CONFIG, tmp_path)
    assert "it begins again" in capsys.readouterr().out
    assert again.record["steps"] == done.record["steps"]
    assert again.record["result"] == done.record["result"]
    assert equal(weights(again.model), weights(done.model))


def test_the_best_step_may_be_none_and_patience_counts(tmp_path):
    still = run(replace(CONFIG, lr=0.0, patience=2), tmp_path)
    assert (still.record["result"]["steps"], still.record["result"]["best_step"]) == (4, 0)
    assert not list(tmp_path.glob("weights-*"))
    assert equal(weights(still.model), weights(load_model(CONFIG.model)[0]))


def test_lost_weights_are_reported(tmp_path):
    config = replace(CONFIG, steps=2)
    best = run(config, tmp_path).record["result"]["best_step"]
    (tmp_path / f"weights-{best}.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cannot be replayed; run it again with --overwrite"):
        run(config, tmp_path)


def test_there_is_nothing_to_replay(finished, tmp_path):
    out, _ = finished
    completed = command("replay", out, f"--out={tmp_path / 'model'}")
    assert completed.status == 1
    assert "is a first-order run, which keeps no trajectory to replay; the weights of its best step are in" in completed.errors
    with pytest.raises(ValueError, match="does not give them"):
        first_order("sgd", network(), lr=0.1).trajectory.save(tmp_path / "trajectory.npz")


def test_a_cell_keeps_no_weights(tmp_path):
    settings = {name: value for name, value in vars(CONFIG).items() if name != "schedule"}
    cell = Cell("short", "Adam", {**settings, "optimizer": "sgd_fused", "steps": 4})
    outcome = cell.run(tmp_path)
    assert [at for at, _ in outcome["curve"]] == [0, 6, 12]
    assert not list((tmp_path / cell.name).glob("weights-*"))
    assert cell.run(tmp_path) == outcome


def test_a_loss_that_is_not_finite_is_reported(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step \d: the loss is nan; lower lr"):
        run(replace(CONFIG, optimizer="sgd", lr=1e30, schedule="constant", eval_every=8), tmp_path)


def test_a_loss_without_a_gradient_is_refused():
    optimizer = first_order("sgd", network(), lr=0.1)
    for loss in (1.0, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="the loss has no gradient"):
            optimizer.step(lambda loss=loss: loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"eps": 1e-8},
            "eps is a setting of zeroth-order methods, and adam takes gradients: leave it at 0.001; Adam's own eps",
        ),
        ({"samples": 2}, "samples is a setting of zeroth-order methods"),
        ({"probe": "through"}, "probe is a setting of zeroth-order methods"),
        ({"checkpoint_every": 2}, "checkpoint_every is a setting of zeroth-order methods"),
        ({"optim_args": "rounding='nearest'"}, "do not fit adam"),
        ({"optim_args": "betas=(2, 0.9)"}, "Invalid beta parameter"),
        ({"optim_args": "recompute=1"}, "recompute must be True or False, got 1"),
        ({"optim_args": "lr=1"}, "do not fit adam"),
        ({"optimizer": "sgd", "optim_args": "betas=(0.9, 0.9)"}, "do not fit sgd"),
        ({"optimizer": "sgd", "lr": -1.0}, "lr must be at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(replace(CONFIG, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_trained_so_is_refused():
    with pytest.raises(ValueError, match="Sequential marks no layers that can be recomputed"):
        first_order("sgd_checkpointed", network(), lr=0.1)
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        first_order("adam", frozen, lr=0.1)


def test_frozen_parameters_stay(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    before = weights(model)
    for name in ("sgd", "sgd_fused", "adam"):
        first_order(name, model, lr=0.1, weight_decay=0.1).step(loss_of(model))
    after = weights(model)
    assert equal(before[:2], after[:2])
    assert not equal(before[2:], after[2:])


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_every_name_is_a_method_of_the_command_line(name, tmp_path):
    words = ["--model=tiny-random-llama", "--steps=1", "--batch_size=2", "--train=4", "--dev=2", "--test=2", "--lr=1e-3"]
    completed = command("finetune", *words, f"--optimizer={name}", f"--out={tmp_path}")
    assert completed.status == 0, completed.errors
    assert f"{4 if name == 'sgd_checkpointed' else 3} forward passes" in completed.out
    assert isinstance(first_order(name, load_model("tiny-random-llama")[0], lr=1e-3), FirstOrder)
