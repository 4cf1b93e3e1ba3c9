"""Real processes that make one run together: the weights of one, numbers alone exchanged, refusals, a rank's death."""

import json
import math
import multiprocessing
import os
import signal
import socket
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import command

from zolab.optim import METHODS
from zolab.records import load_record
from zolab.records.log import RunLog
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.runs.ranks import ALONE, Ranks
from zolab.tasks import TASKS, load_task


class Changed(TASKS["rotten_tomatoes"]):
    """Draws other examples in each rank."""

    def sample(self, seed=0, *sizes):
        return super().sample(seed + int(os.environ["RANK"]), *sizes)


class Broken(TASKS["rotten_tomatoes"]):
    """Its loss is no number in the second rank."""

    def loss(self, model, batch):
        return super().loss(model, batch) * (math.nan if os.environ["RANK"] == "1" else 1.0)


class Written(TASKS["rotten_tomatoes"]):
    """Its answers are learned token by token."""

    objective = "answer"

    def template(self, row):
        return replace(super().template(row), candidates=(" no", " wonderfully uncomplicated"))


SIZES = {"steps": 3, "eval_every": 3, "batch_size": 6, "train": 14, "dev": 4, "test": 4}
MEZO = Config(model="tiny-random-llama", lr=1e-3, **SIZES)
REVIEWS = replace(MEZO, model="tiny-reviews", task="reviews_sentence", lr=1e-4, steps=2)
SHARED = {
    "mezo": replace(MEZO, probe="in_place"),
    "through": replace(MEZO, probe="through", balanced=True, calibrate=6),
    "hizoo": replace(MEZO, optimizer="hizoo", optim_args="alpha=1e-3"),
    "fzoo": replace(MEZO, optimizer="fzoo", samples=8, lr=1e-4),
    "mezo_svrg": replace(MEZO, optimizer="mezo_svrg"),
    "accuracy": replace(MEZO, objective="accuracy", eps=0.1),
    "zo_finetuner": replace(REVIEWS, optimizer="zo_finetuner", optim_args="pertnn='tiny-reviews'"),
    "answer": replace(MEZO, task="test_ranks:Written"),  # a mean over tokens, of which ranks have different numbers
}
SPREAD = {
    "mezo of 4": replace(MEZO, parallel="directions", samples=4),
    "mezo, a side each": replace(MEZO, parallel="directions", probe="in_place"),
    "hizoo, a loss each": replace(MEZO, parallel="directions", optimizer="hizoo", optim_args="alpha=1e-3"),
    "fzoo of 3": replace(MEZO, parallel="directions", optimizer="fzoo", samples=3, lr=1e-4),
    "zo_finetuner of 3": replace(SHARED["zo_finetuner"], parallel="directions", samples=3, steps=1),
}
OTHER_LR = "rank 1 differs from rank 0 in lr: start all ranks with the same command"
REFUSED = {  # the configuration, that of rank 1 if it has another, and the sentence
    "lr": (MEZO, replace(MEZO, lr=2e-3), OTHER_LR),
    "unknown": (MEZO, replace(MEZO, task="nope"), "rank 1: unknown task 'nope'"),
    "data": (replace(MEZO, task="test_ranks:Changed"), None, "rank 1 differs from rank 0 in the examples: start"),
    "sgd": (replace(MEZO, optimizer="sgd"), None, "sgd takes derivatives, and ranks exchange losses alone"),
    "forward_gradient": (replace(MEZO, optimizer="forward_gradient"), None, "forward_gradient takes derivatives"),
    "grzo": (replace(MEZO, optimizer="grzo"), None, "grzo probes each example in a direction of its own"),
    "batch": (replace(MEZO, batch_size=1), None, "batch_size is 1, and there are 2 ranks"),
    "dizo": (replace(MEZO, optimizer="dizo", parallel="directions"), None, "dizo measures its losses in an order of its own"),
    "cuda:0": (replace(MEZO, device="cuda:0"), None, "all 2 ranks would share cuda:0: write --device cuda"),
    "cuda": (replace(MEZO, device="cuda"), None, "2 ranks were started on this machine, which has"),
}
ROUNDING = 4e-7  # of a loss in float32, relative
BROKEN = {
    "broken": replace(MEZO, task="test_ranks:Broken"),
    "broken of 2": replace(MEZO, task="test_ranks:Broken", parallel="directions", samples=2),
}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["zolab.runs.finetune", "test_ranks"])


def together(count, jobs, folder, do=None):
    """Run jobs in so many ranks and return what each rank told: for each job its sentence, or None if it came through.

    `do(name, job, folder, number)` is how rank `number` does a job; `_finetuned` by default.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder.mkdir(exist_ok=True)
    ranks = [
        CONTEXT.Process(target=_work, args=(number, count, port, jobs, folder, do or _finetuned)) for number in range(count)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    files = [folder / f"outcomes-{number}.json" for number in range(count)]
    return [json.loads(file.read_text()) if file.exists() else rank.exitcode for file, rank in zip(files, ranks, strict=True)]


def _work(number, count, port, jobs, folder, do):
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(folder)
    torch.set_num_threads(1)
    outcomes = {}
    for name, job in jobs.items():
        try:
            outcomes[name] = do(name, job, folder, number)
        except Exception as error:  # what each rank says is what is tested
            outcomes[name] = f"{type(error).__name__}: {error}"
    (folder / f"outcomes-{number}.json").write_text(json.dumps(outcomes))


def _finetuned(name, config, folder, number):
    """A run, whose weights are kept; beside its configuration may stand that of rank 1, or the steps after which that dies."""
    config, dies = (config, None) if isinstance(config, Config) else config
    if isinstance(dies, Config):
        config = dies if number else config
    elif dies and number == 1:
        _die_after(dies)
    done = finetune(config, folder / name, progress=False)
    save_file({key: p.detach().clone() for key, p in done.model.named_parameters()}, folder / f"{name}-{number}.weights")


def _die_after(steps):
    """Kill this process once it has taken so many steps."""
    append = RunLog.append

    def dying(self, event, **fields):
        append(self, event, **fields)
        if len(self.of("step")) == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    RunLog.append = dying


def weights_of(folder, name, number=0):
    return load_file(folder / f"{name}-{number}.weights")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Each configuration's run in one process, of one thread like a rank, when it is asked for."""
    folder, known = tmp_path_factory.mktemp("one"), {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(name):
        if name not in known:
            done = finetune({**SHARED, **SPREAD}[name], folder / name, progress=False)
            known[name] = done.record, {key: p.detach() for key, p in done.model.named_parameters()}
        return known[name]

    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    jobs = {**SHARED, **SPREAD, **BROKEN, **{name: (mine, other) for name, (mine, other, _) in REFUSED.items()}}
    return folder, together(2, jobs, folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    jobs = {name: {**SHARED, **SPREAD}[name] for name in ("mezo", "answer", "mezo of 4", "fzoo of 3", "hizoo, a loss each")}
    return folder, together(3, jobs | {"samples": replace(MEZO, parallel="directions")}, folder)


def test_each_rank_needs_a_loss_to_measure(three):
    message = "a step of mezo measures 2 losses with samples at 1, and each of 3 ranks needs one: raise samples"
    assert all(message in sentences["samples"] for sentences in three[1])


@pytest.fixture(params=[2, 3])
def ranks(request):
    return request.param, *request.getfixturevalue({2: "two", 3: "three"}[request.param])


def test_every_rank_has_the_same_weights_to_the_bit(ranks):
    count, folder, outcomes = ranks
    for name in [name for name in {**SHARED, **SPREAD} if name in outcomes[0]]:
        assert [each[name] for each in outcomes] == [None] * count, name
        first = weights_of(folder, name)
        for number in range(1, count):
            other = weights_of(folder, name, number)
            assert all(torch.equal(first[key], other[key]) for key in first), name


def test_directions_in_parallel_are_those_of_one_process_to_the_bit(ranks, one):
    count, folder, outcomes = ranks
    for name in [name for name in SPREAD if name in outcomes[0]]:
        record, weights = one(name)
        shared = load_record(folder / name / "record.json")
        assert shared["steps"] == record["steps"]
        assert shared["evaluations"] == record["evaluations"]
        assert all(torch.equal(weights[key], tensor) for key, tensor in weights_of(folder, name).items()), name
        values = METHODS[SPREAD[name].optimizer].forwards(samples=SPREAD[name].samples)  # a float64 each, the last ones padded
        assert 8 * values <= shared["ranks"]["bytes_a_step"] <= 8 * (values + 2 * count)


def test_a_shared_batch_is_that_of_one_process_up_to_a_means_rounding(ranks, one):
    """A loss of about 1 is off by some 1e-7, a slope by that over eps, and a step by lr times a direction's length more."""
    _, folder, outcomes = ranks
    for name in [name for name in SHARED if name in outcomes[0]]:
        (record, weights), config = one(name), SHARED[name]
        shared = load_record(folder / name / "record.json")
        first, ours = record["steps"][0], shared["steps"][0]
        assert ours["losses"] == pytest.approx(first["losses"], rel=ROUNDING), name
        assert [step["step"] for step in shared["steps"]] == [step["step"] for step in record["steps"]]
        if name == "fzoo":  # steps divide by the losses' spread
            continue
        error = 10 * ROUNDING * max(first["losses"]) / config.eps
        bound = config.lr * config.steps * 6 * error if config.objective == "loss" else 0
        for key, tensor in weights_of(folder, name).items():
            assert float((tensor - weights[key]).abs().max()) <= bound + 1e-7, (name, key)


def test_the_record_counts_ranks_and_bytes(ranks, one):
    count, folder, outcomes = ranks
    for name in [name for name in SHARED if name in outcomes[0]]:
        record, config = load_record(folder / name / "record.json"), SHARED[name]
        losses = METHODS[config.optimizer].forwards(samples=config.samples)
        assert record["ranks"]["count"] == count
        assert record["ranks"]["parallel"] == "batch"
        if name != "mezo_svrg":  # which has steps of two kinds
            assert record["ranks"]["bytes_a_step"] == 8 * (losses + 1) * count  # and once how many terms a loss is the mean of
        assert record["ranks"]["bytes_a_step"] <= 256
        assert record["result"]["forwards"] == one(name)[0]["result"]["forwards"]
    assert "ranks" not in one("mezo")[0]


def test_the_first_rank_alone_writes_and_its_run_is_verified(two, tmp_path):
    folder, _ = two
    assert {file.name for file in (folder / "mezo").iterdir()} == {"log.jsonl", "record.json", "trajectory.npz"}
    for name in ("mezo", "mezo of 4"):
        completed = command("verify", folder / name)
        assert completed.status == 0, completed.out + completed.errors


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_by_every_rank_before_anything_starts(two, name):
    folder, outcomes = two
    for number, each in enumerate(outcomes):
        sentence = REFUSED[name][2]
        mine = sentence.removeprefix("rank 1: ") if number == 1 else sentence
        assert mine in (each[name] or ""), each[name]
        assert each[name].count("\n") == 0
    assert not list((folder / name).glob("*"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_loss_of_one_rank_that_is_no_number_ends_all_alike(two, name):
    _, outcomes = two
    assert outcomes[0][name] == outcomes[1][name]
    assert outcomes[0][name].startswith("FloatingPointError: step 0: the closure returned nan")


def test_a_rank_that_dies_ends_the_run_with_one_sentence_and_it_can_be_taken_up(two, tmp_path):
    whole, _ = two
    outcomes = together(2, {"mezo": (SHARED["mezo"], 2)}, tmp_path / "runs")
    assert outcomes[1] == -signal.SIGKILL
    assert outcomes[0]["mezo"].startswith("RuntimeError: another of the 2 ranks ended")
    assert not (tmp_path / "runs" / "mezo" / "record.json").exists()
    (tmp_path / "runs" / "outcomes-0.json").unlink()
    assert together(2, {"mezo": SHARED["mezo"]}, tmp_path / "runs") == [{"mezo": None}] * 2
    for number in range(2):
        resumed, expected = weights_of(tmp_path / "runs", "mezo", number), weights_of(whole, "mezo")
        assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_a_loss_is_the_mean_of_so_many_terms():
    from zolab.models import load_model

    _, tokenizer = load_model("tiny-random-llama")
    for name in ("rotten_tomatoes", "test_ranks:Written"):
        task = load_task(name)
        batch = task.encode(tokenizer, task.sample(0, 6, 2, 2).train)
        losses = task._losses(torch.zeros(len(batch.targets)), batch)
        assert task.terms(batch) == len(losses)
        assert (len(losses) > 6) == (name != "rotten_tomatoes")


def test_alone_nothing_is_exchanged():
    assert Ranks.joined() is ALONE
    assert ALONE.averaging(3)(math.pi) == math.pi
    assert ALONE.share([1, 2]) == [1, 2]
    with pytest.raises(KeyError), ALONE.agreed():
        raise KeyError
    assert ALONE.exchanged == 0


def test_a_study_is_not_started_by_a_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    completed = command("study", "notebooks/plans/09_tiny.yaml", f"--out={tmp_path}/out", f"--record={tmp_path}/r.json")
    assert completed.status == 1
    assert "start it without torchrun or accelerate launch" in completed.errors


def test_older_runs_shared_nothing():
    assert asdict(MEZO)["parallel"] == "batch"
    with pytest.raises(ValueError, match="unknown parallel 'model'; choose batch, directions"):
        replace(MEZO, parallel="model").validate()
