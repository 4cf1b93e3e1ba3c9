"""Real processes with a part of the weights each: the numbers of one process, directions that no parts share, refusals."""

import json
import os
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file
from small import command, stop_after
from test_ranks import together

from zolab import MeZO
from zolab.l2l import MetaConfig, meta_train
from zolab.models import fingerprint, load_model, tiny_model
from zolab.models.shards import gathered, own_part, shard, start_of
from zolab.noise import Direction, direction, dot, on_parts
from zolab.pertnn import PertNN
from zolab.probe.blocks import split
from zolab.probe.in_place import Perturbation
from zolab.records import load_record
from zolab.runs.batches import batch_at
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.runs.ranks import Ranks
from zolab.runs.shards import check_shards
from zolab.tasks import TASKS, load_task
from zolab.theory.judged import GROUPINGS

SIZES = {"steps": 4, "eval_every": 2, "batch_size": 6, "train": 14, "dev": 6, "test": 4}
SGD = Config(model="tiny-random-llama", optimizer="sgd", lr=0.1, schedule="constant", **SIZES)
META = MetaConfig(
    model="tiny-reviews", tasks="reviews_sentence", steps=4, period=2, batch_size=5, train=10, lr=1e-2, lr_zo=1e-4, momentum=0.5
)


class Uneven(TASKS["rotten_tomatoes"]):
    """Some texts are long, so that ranks need unequally many passes for their shares."""

    def template(self, row):
        example = super().template(row)
        return replace(example, prompt=example.prompt * (14 if len(example.prompt) % 2 else 1))


class Dying(TASKS["rotten_tomatoes"]):
    """Its third loss kills the second rank while the first one waits for its weights."""

    losses_taken = 0

    def loss(self, model, batch):
        self.losses_taken += 1
        if os.environ["RANK"] == "1" and self.losses_taken == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


RUNS = {
    "sgd": SGD,
    "momentum": replace(SGD, optim_args="momentum=0.9", weight_decay=0.1, model="tiny-random-opt"),
    "adam": replace(SGD, optimizer="adam", lr=3e-4, optim_args="recompute=True"),
    "uneven": replace(SGD, task="test_shards:Uneven", batch_size=5, calibrate=6, steps=2, test=2),
    "answer": replace(SGD, task="test_ranks:Written", model="tiny-random-qwen2"),
}
LEARNED = {
    "sample": META,
    "complete": replace(META, gradient="complete", clip=0.05, meta_lr=0.3),
    "expected": replace(META, gradient="expected", recompute=True, rule="layer"),
    "exact": replace(META, exact=True, clip=0.0, outer="adam", meta_lr=0.01),
}
REFUSED = {
    "mezo": (replace(SGD, optimizer="mezo"), "shard splits the weights of methods that take gradients, and mezo takes none"),
    "fused": (replace(SGD, optimizer="sgd_fused"), "the fused step takes gradients one by one"),
    "lora": (replace(SGD, tuning="lora"), "tuning lora trains few"),
    "few": (replace(SGD, batch_size=1), "batch_size is 1, and there are 2 ranks"),
    "masked": (replace(SGD, model="tiny-random-roberta"), "RobertaForMaskedLM is no causal model with marked layers"),
    "gain": (replace(META, gradient="gain"), "gradient gain measures a whole model in each process"),
    "meta fused": (replace(META, fused=True, clip=0.0), "the fused step takes gradients one by one"),
    "one example": (replace(META, batch_size=1), "batch_size is 1, and there are 2 ranks"),
}


def made(config, out, shard=True):
    run = finetune if isinstance(config, Config) else meta_train
    return run(config, out, progress=False, shard=shard)


def _done(name, job, folder, number):
    return job(folder / name) if callable(job) else keep(made(job, folder / name), folder / f"{name}-{number}")


def keep(run, path):
    """The weights that came out, whole, as this rank has them."""
    weights = gathered(dict(run.model.named_parameters()), True) if hasattr(run, "model") else run.pertnn.state_dict()
    save_file({name: weight.detach().clone() for name, weight in weights.items()}, f"{path}.weights")


def parts_of(folder):
    """What a rank holds of a model, of a direction over it, and what a move along it makes of the parts."""
    ranks, (model, _) = Ranks.joined(), load_model("tiny-random-llama")
    known = fingerprint(model)
    shard(model, "cpu", ranks.group)
    assert fingerprint(model) == known
    params = [p.detach() for p in model.parameters()]
    parts, starts = [own_part(p) for p in params], [start_of(p) for p in params]
    held = {f"{j}.weights": part.clone() for j, part in enumerate(parts)}
    for family in ("gaussian", "rademacher"):
        along = on_parts(Direction(5, 3, 0, family), starts, parts)
        held |= {f"{j}.{family}": along.part(j, slice(0, part.numel())) for j, part in enumerate(parts)}
        held |= {f"{j}.{family}.dot": torch.tensor(dot(part, along, j)) for j, part in enumerate(parts)}
    move = Perturbation(parts, tuple(range(len(parts))), on_parts(Direction(5, 3), starts, parts), [0.01] * len(parts))
    move.plus()
    held |= {f"{j}.moved": part.clone() for j, part in enumerate(parts)}
    move.leave()
    assert all(torch.equal(part, held[f"{j}.weights"]) for j, part in enumerate(parts))
    save_file(held, f"{folder}-{ranks.number}.parts", metadata={"starts": json.dumps(starts)})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    refused = {name: config for name, (config, _) in REFUSED.items()}
    alone = {"without": partial(made, META, shard=False), "parts": parts_of}
    return folder, together(2, {**RUNS, **LEARNED, **refused, **alone}, folder, _done)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same runs in one process, of one thread like a rank."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda name: made({**RUNS, **LEARNED}[name], folder / name, shard=False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RUNS)
def test_first_order_runs_give_the_numbers_of_one_process(two, one, name):
    folder, outcomes = two
    assert [each[name] for each in outcomes] == [None, None]
    alone, shared = one(name), load_record(folder / name / "record.json")
    for part, keys in (("steps", ("loss",)), ("evaluations", ("loss", "metric", "step", "forwards"))):
        for mine, theirs in zip(alone.record[part], shared[part], strict=True):
            assert [theirs[key] for key in keys] == pytest.approx([mine[key] for key in keys], rel=1e-5)
    assert shared["result"]["best_step"] == alone.record["result"]["best_step"]
    first, second = (load_file(folder / f"{name}-{number}.weights") for number in range(2))
    begun = dict(load_model(RUNS[name].model)[0].named_parameters())
    moved = max(float((first[key] - weight.detach()).abs().max()) for key, weight in begun.items())
    assert moved > 5e-4
    for key, weight in alone.model.named_parameters():
        assert torch.equal(first[key], second[key])
        assert float((first[key] - weight.detach()).abs().max()) < 1e-3 * moved, key


def test_some_ranks_need_more_passes_than_others():
    task, (_, tokenizer), config = load_task("test_shards:Uneven"), load_model(SGD.model), RUNS["uneven"]
    batch = batch_at(task.sample(0, config.train, config.dev, config.test).train, config.batch_size, config.seed, 0)
    passes = [len(task.encode(tokenizer, batch[number::2]).packs) for number in range(2)]
    assert passes[0] != passes[1]


def test_the_best_weights_are_saved_whole_and_the_record_knows_them(two):
    folder, _ = two
    record, weights = load_record(folder / "sgd" / "record.json"), load_file(folder / "sgd-0.weights")
    (saved,) = (folder / "sgd").glob("weights-*.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in load_file(saved).items())
    model, _ = load_model(SGD.model)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    assert record["result"]["weights"] == fingerprint(model)
    assert record["ranks"] == {"count": 2, "parallel": "shards"}
    assert {path.name for path in (folder / "sgd").iterdir()} == {"log.jsonl", "record.json", saved.name}


def test_a_finished_run_is_read_again_in_parts_and_whole(two, tmp_path):
    folder, _ = two
    (folder / "outcomes-0.json").unlink()
    assert together(2, {"sgd": RUNS["sgd"]}, folder, _done) == [{"sgd": None}] * 2
    again = made(RUNS["sgd"], folder / "sgd", shard=False)
    weights = load_file(folder / "sgd-1.weights")
    assert all(torch.equal(weights[name], p.detach()) for name, p in again.model.named_parameters())


def test_a_rank_that_dies_in_the_middle_of_a_pass_ends_the_run_with_one_sentence(tmp_path):
    first, second = together(2, {"dying": replace(SGD, task="test_shards:Dying")}, tmp_path / "runs", _done)
    assert second == -signal.SIGKILL
    assert first["dying"].startswith("RuntimeError: another of the 2 ranks ended")
    assert not (tmp_path / "runs" / "dying" / "record.json").exists()


@pytest.mark.parametrize("name", LEARNED)
def test_learning_to_learn_trains_the_pertnn_of_one_process(two, one, name):
    folder, outcomes = two
    assert [each[name] for each in outcomes] == [None, None]
    alone, shared, config = one(name), load_record(folder / name / "record.json"), LEARNED[name]
    for mine, theirs in zip(alone.record["result"]["steps"], shared["result"]["steps"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
        assert theirs["meta_loss"] == pytest.approx(mine["meta_loss"], rel=1e-3)
        assert theirs["projected_grad"] == pytest.approx(mine["projected_grad"], abs=4e-7 / config.eps * 10)  # of two losses
    first, second = (load_file(folder / f"{name}-{number}.weights") for number in range(2))
    blocks = split(load_model(config.model)[0], GROUPINGS[config.rule])
    begun = PertNN(blocks, config.hidden, normalise=config.budget, seed=config.seed).state_dict()
    for key, weight in alone.pertnn.state_dict().items():
        moved = float((weight - begun[key]).abs().max())
        assert moved > 5e-4
        assert torch.equal(first[key], second[key])
        assert float((first[key] - weight).abs().max()) < 1e-4 * moved, key


def test_meta_training_that_was_stopped_goes_on_in_parts(two, tmp_path, monkeypatch):
    folder, _ = two
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(3, patch)
        made(META, tmp_path / "sample", shard=False)
    assert together(2, {"sample": META}, tmp_path, _done) == [{"sample": None}] * 2
    expected = load_file(folder / "sample-0.weights")
    for number in range(2):
        learned = load_file(tmp_path / f"sample-{number}.weights")
        assert all(torch.allclose(learned[key], weight, rtol=0, atol=1e-6) for key, weight in expected.items())


def test_no_two_shards_share_numbers_of_a_direction(two):
    """Published code that seeds each process alike moves all shards by the same numbers."""
    folder, outcomes = two
    assert [each["parts"] for each in outcomes] == [None, None]
    held = [load_file(folder / f"parts-{number}.parts") for number in range(2)]
    model, _ = load_model("tiny-random-llama")
    params = [p.detach() for p in model.parameters()]
    move = Perturbation(params, tuple(range(len(params))), Direction(5, 3), [0.01] * len(params))
    weights = [p.clone() for p in params]
    move.plus()
    for j, whole in enumerate(weights):
        for name, wanted in (("weights", whole), ("moved", params[j])):
            assert torch.equal(torch.cat([part[f"{j}.{name}"] for part in held]), wanted), (j, name)
        for family in ("gaussian", "rademacher"):
            z = direction(Direction(5, 3, 0, family), j, whole.numel())
            one, two = (part[f"{j}.{family}"] for part in held)
            assert torch.equal(torch.cat([one, two]), z)
            assert not torch.equal(one, two[: len(one)])
            total = sum(float(part[f"{j}.{family}.dot"]) for part in held)
            assert total == pytest.approx(dot(whole, Direction(5, 3, 0, family), j), rel=1e-4, abs=1e-4)


def test_layers_on_several_devices_move_along_the_directions_of_one():
    """accelerate's dispatch keeps names and order, by which a direction is named. Here both devices are the CPU."""
    model, twin = tiny_model("llama"), tiny_model("llama")
    dispatch_model(model, {"": "cpu"} | {"model.layers.1": torch.device("cpu")}, main_device="cpu", force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    ids, moved = torch.arange(24).view(2, 12), []
    for each in (model, twin):
        before = [p.detach().clone() for p in each.parameters()]
        MeZO(each.named_parameters(), lr=1e-2, eps=1e-3, seed=3).step(lambda each=each: each(input_ids=ids, labels=ids).loss)
        moved.append([(p.detach() - q).flatten() for p, q in zip(each.parameters(), before, strict=True)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*moved, strict=True))
    for j, mine in enumerate(moved[0]):
        assert not any(torch.equal(mine, other) for other in moved[0][j + 1 :])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_before_anything_starts(two, name):
    folder, outcomes = two
    for each in outcomes:
        assert REFUSED[name][1] in (each[name] or ""), each[name]
        assert each[name].count("\n") == 0
    assert not list((folder / name).glob("*"))


def test_several_processes_that_share_nothing_are_refused(two):
    _, outcomes = two
    for each in outcomes:
        assert (
            "2 processes were started, and learning to learn shares nothing among them but a model's weights" in each["without"]
        )


@pytest.mark.parametrize("words", [["finetune", "--optimizer=sgd"], ["metatrain", "--model=tiny-reviews"]])
def test_one_process_has_nothing_to_split(words, tmp_path):
    completed = command(*words, "--shard", f"--out={tmp_path / 'run'}")
    assert completed.status == 1
    assert "shard splits the weights among processes, and this one is alone: start several by torchrun" in completed.errors
    assert not list(tmp_path.iterdir())


def test_a_torch_without_processes_is_refused(monkeypatch):
    monkeypatch.setattr("zolab.runs.shards.distributed", SimpleNamespace(is_available=lambda: False))
    with pytest.raises(
        ValueError, match=r"shard splits the weights among processes, and this torch was built without torch\.dist"
    ):
        check_shards(Ranks(count=2), fused=False)
