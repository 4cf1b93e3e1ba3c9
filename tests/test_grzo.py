"""GRZO: its twin, its directions, what a batch gains and what it does not, the tasks' losses of each example, and refusals."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import command, equal, network, stop_after, weights
from test_masked import words_tokenizer
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from zolab import GRZO, LOZO, MeZO, Trajectory, noise, replay
from zolab.models import LoRA, load_model, tiny_model
from zolab.noise import Direction, GroupDirection, LowRankDirection, rows_of
from zolab.optim import reference_probes as reference
from zolab.records import load_record
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.tasks import Example, load_task

kinds = pytest.mark.parametrize("rank", [None, 2], ids=["full", "low rank"])
PLAIN = {"group_relative": False}


def each_of(model, examples=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(examples, 37, generator=generator), torch.randn(examples, 3, generator=generator)
    dtype = next(model.parameters()).dtype
    return lambda: ((model(x.to(dtype)).float() - y) ** 2).mean(1)


def grzo(model, **settings):
    return GRZO(model.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, "seed": 3, **settings}).look_through(model)


def walk(optimizer, losses, steps):
    return [optimizer.step(losses) for _ in range(steps)]


# --- the twin


@pytest.mark.parametrize(
    ("rank", "dtype", "more"),
    [
        (None, torch.float32, {"weight_decay": 0.1}),
        (2, torch.float32, {"group_relative": False}),
        (None, torch.float64, {"group_relative": False}),
        (2, torch.float64, {"samples": 2}),
    ],
)
def test_100_steps_equal_the_reference(rank, dtype, more):
    model = network(dtype)
    twin, settings = copy.deepcopy(model), {"lr": 1e-3, "eps": 1e-2, "seed": 3, "rank": rank, "interval": 7, **more}
    optimizer, ours, theirs = grzo(model, **settings), each_of(model, 3), each_of(twin, 3)
    for step in range(100):
        loss = reference.grzo_step(list(twin.parameters()), theirs, step=step, **settings)
        assert math.isclose(optimizer.step(ours), loss, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=2e-4, atol=2e-4)


def test_a_batch_is_evaluated_twice_a_sample():
    model, calls = network(), []
    losses = each_of(model)
    walk(grzo(model, samples=3), lambda: calls.append(1) or losses(), 2)
    assert len(calls) == GRZO.forwards(2, samples=3) == 12


# --- the directions


def all_of(direction, block, examples):
    """z_i of a matrix, as the sum over examples gives them."""
    shape = direction.tensors[block].shape
    rows = torch.eye(examples).tolist()
    return torch.stack([replace(direction, weights=tuple(row)).part(block, slice(0, shape.numel())) for row in rows])


def matrix(rows=20, columns=31):
    return [torch.zeros(rows, columns)]


def of_step(tensors, step, rank=None):
    name = Direction(4, step)
    return GroupDirection(LowRankDirection(name, rank, 1, tensors) if rank else name, tensors)


@kinds
def test_directions_of_a_batch_are_uncorrelated_in_pairs(rank):
    """A z-test of each pair's mean product, over 300 draws of 620 weights; an entry's variance is the rank."""
    tensors, examples = matrix(), 5
    grams = torch.stack([(z := all_of(of_step(tensors, t, rank), 0, examples)) @ z.T / z.shape[1] for t in range(300)]).double()
    scores = (grams.mean(0) - (rank or 1) * torch.eye(examples)) / (grams.std(0) / math.sqrt(len(grams)))
    assert float(scores.abs().max()) < 4.5


@kinds
def test_directions_are_one_base_with_other_signs_whatever_the_batch(rank):
    tensors = [*matrix(), torch.zeros(7)]
    direction = of_step(tensors, 3, rank)
    z, few = all_of(direction, 0, 6), all_of(direction, 0, 2)
    assert torch.equal(z[:2], few)
    assert torch.equal(z.abs(), z[:1].abs().expand_as(z))
    assert torch.equal(z[0], direction.shared(0, slice(0, 620)))
    for signs in (z[1:] / z[0]).view(-1, 20, 31):
        assert torch.linalg.matrix_rank(signs) == 1
        assert not torch.equal(signs, torch.ones_like(signs))
    assert torch.equal(*all_of(direction, 1, 2))  # what is no matrix has one for all


@kinds
def test_the_sum_over_examples_is_the_same_slice_by_slice(rank):
    direction = replace(of_step(matrix(), 3, rank), weights=(0.5, -1.0, 0.25))
    whole, z = direction.part(0, slice(0, 620)), all_of(direction, 0, 3)
    torch.testing.assert_close(whole, 0.5 * z[0] - z[1] + 0.25 * z[2])
    assert torch.equal(torch.cat([direction.part(0, slice(a, a + 62)) for a in range(0, 620, 62)]), whole)


# --- what the estimate is, and how far it scatters


@kinds
def test_the_mean_step_is_the_gradient(rank):
    """A z-test over 200 steps on losses that are linear in the weights, so that slopes have no error of eps."""
    model, examples = nn.Linear(4, 3).double(), 6
    x, c = (torch.randn(examples, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (4, 3))
    optimizer, draws = grzo(model, lr=0.0, rank=rank, interval=1, **PLAIN), []
    for step in range(200):
        optimizer.step(lambda: (model(x) * c).sum(1))
        weights = tuple(p / examples for p in optimizer.trajectory.records[-1].projected_grads)
        direction = replace(optimizer.direction(step), weights=weights)
        draws.append(torch.cat([direction.part(0, slice(0, 12)) / (rank or 1), direction.part(1, slice(0, 3))]))
    draws = torch.stack(draws).double()
    (model(x) * c).sum(1).mean().backward()
    expected = torch.cat([model.weight.grad.flatten(), model.bias.grad])
    assert float(((draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))).abs().max()) < 4.5


@pytest.mark.parametrize("examples", [1, 4, 16])
@pytest.mark.parametrize("alike", [True, False], ids=["one gradient", "orthogonal gradients"])
def test_variance_falls_with_the_batch_and_how_much_below_mezos(examples, alike):
    """1/B of one example's where all have one gradient, as claimed; MeZO's where the gradients of examples are orthogonal."""
    tensors, draws = matrix(10, 12), 2000
    n, one = 120, torch.zeros(examples, 120)
    one[:, 0] = 1.0
    g = one if alike else torch.eye(120)[:examples]  # one row an example, each of length 1
    squares = []
    for step in range(draws):
        direction = of_step(tensors, step)
        (r, s), u = direction.signs(0, examples), direction.shared(0, slice(0, n))
        z = u * (r[:, :, None] * s[:, None, :]).reshape(examples, n)
        squares.append(float((((z * g).sum(1) @ z) / examples).square().sum()))
    inner = float((g @ g.T).sum()) - examples
    derived = ((n + 2) * examples + 3 * inner) / examples**2
    error = float(np.std(squares)) / math.sqrt(draws)
    assert abs(float(np.mean(squares)) - derived) < 4.5 * error
    mezo = (n + 2) * float(g.mean(0).square().sum())
    gain = mezo / derived
    assert gain == pytest.approx(examples / (1 + 3 * (examples - 1) / (n + 2)) if alike else 1.0)


def test_dividing_by_the_spread_forgets_the_scale_of_the_loss():
    one, two = network(torch.float64), network(torch.float64)
    ours, theirs = each_of(one), each_of(two)
    walk(grzo(one), ours, 5)
    walk(grzo(two), lambda: 1000 * theirs(), 5)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_equal_slopes_tell_no_direction():
    model = network()
    before = weights(model)
    losses = each_of(model)
    walk(grzo(model), lambda: losses() * 0, 2)
    assert equal(before, weights(model))


@pytest.mark.parametrize(("rank", "method"), [(None, MeZO), (2, LOZO)])
def test_a_batch_of_one_example_is_the_method_beneath(rank, method):
    one, two = network(torch.float64), network(torch.float64)
    more = {"rank": rank, "interval": 5} if rank else {}
    other = method(two.named_parameters(), lr=1e-3, eps=1e-2, seed=3, **more)
    ours, theirs = each_of(one, 1), each_of(two, 1)
    optimizer = grzo(one, **PLAIN, **more)
    for _ in range(20):
        assert optimizer.step(ours) == pytest.approx(other.step(lambda: theirs().mean()), rel=1e-6)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


# --- replayed, resumed, broken off


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_replay_and_a_saved_state_give_the_same_bits(tmp_path, rank, dtype):
    model, base = network(dtype), network(dtype)
    settings = {"rank": rank, "interval": 3, "weight_decay": 0.1, "samples": 2}
    optimizer, losses = grzo(model, **settings), each_of(model)
    walk(optimizer, losses, 6)
    with pytest.raises(FloatingPointError):
        optimizer.step(lambda: losses() * math.nan)
    optimizer.trajectory.save(tmp_path / "t.npz")
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    again = grzo(base, **settings)
    again.load_state_dict(optimizer.state_dict())
    walk(again, each_of(base, 4), 3)
    walk(optimizer, each_of(model, 4), 3)  # a batch of another size
    assert equal(weights(base), weights(model))
    assert optimizer.trajectory == again.trajectory
    assert not equal(weights(model), weights(network(dtype)))


def test_frozen_layers_stay_and_the_bare_model_is_replayed():
    model, base = network(), network()
    model[0].weight.requires_grad_(False)
    optimizer = grzo(model)
    walk(optimizer, each_of(model), 3)
    assert torch.equal(model[0].weight, base[0].weight)
    replay(base, optimizer.trajectory)
    assert equal(weights(base), weights(model))


def test_a_batch_in_parts_says_whose_each_row_is():
    whole, parts = network(torch.float64), network(torch.float64)
    one, two, losses = grzo(whole), grzo(parts), each_of(whole, 6)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 37, generator=generator), torch.randn(6, 3, generator=generator)

    def in_parts():
        by_part = []
        for rows in torch.arange(6).split(4):
            with rows_of(rows):
                by_part.append(((parts(x[rows].double()).float() - y[rows]) ** 2).mean(1))
        return torch.cat(by_part)

    for _ in range(3):
        assert one.step(losses) == pytest.approx(two.step(in_parts), rel=1e-6)


# --- the losses of each example, for every kind of task

COPA = [
    Example(f"The man {word} because", (" he did so.", " of his old dog, who had seen it."), 1) for word in ("ran", "sat up")
]
SQUAD = [Example(f"Title: {t}\nQ: who?\nA:", (f" {t}",), 0, references=((t,),)) for t in ("John", "the Duke of York")]
ROWS = [{"sentence": text, "label": label} for text, label in (("good", 1), ("not that bad", 0), ("good", 0))]


def setting(kind):
    """Task, model, tokenizer and three or so examples."""
    model, tokenizer = load_model("tiny-random-llama")
    task = load_task(kind)
    examples = {"copa": COPA, "squad": SQUAD}.get(kind)
    if kind == "masked_sst2":
        examples, tokenizer, model = [task.template(row) for row in ROWS], words_tokenizer(), tiny_model("roberta")
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return task, model, tokenizer, examples or task.sample(0, 3, 2, 2).train


TASKS = pytest.mark.parametrize("kind", ["rotten_tomatoes", "reviews_compare", "copa", "squad", "masked_sst2"])


@TASKS
@torch.no_grad()
def test_losses_of_examples_have_the_batchs_loss_as_their_mean(kind):
    task, model, tokenizer, examples = setting(kind)
    together, apart = task.encode(tokenizer, examples), task.encode(tokenizer, examples, apart=True)
    losses = task.losses(model, apart)
    assert losses.shape == (len(examples),)
    torch.testing.assert_close(losses.mean(), task.loss(model, together), rtol=1e-5, atol=1e-5)
    for part in apart.packs:
        assert len(part.examples) == len(part.input_ids)
    if task.objective != "answer":
        alone = [task.loss(model, task.encode(tokenizer, [example])) for example in examples]
        torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-5, atol=1e-5)


@TASKS
@pytest.mark.parametrize("rank", [None, 1])
def test_a_step_on_a_language_model_is_the_references(kind, rank):
    """Embeddings, tied heads, norms and biases, several rows to an example and several examples to a pass."""
    task, model, tokenizer, examples = setting(kind)
    model, twin = model.double(), copy.deepcopy(model).double()
    apart, together = task.encode(tokenizer, examples, apart=True), task.encode(tokenizer, examples)
    settings = {"lr": 1e-3, "eps": 1e-3, "seed": 3, "rank": rank}
    optimizer = grzo(model, **settings)
    params = [p for p in twin.parameters() if p.requires_grad]
    for step in range(2):
        ours = optimizer.step(lambda: task.losses(model, apart))
        assert ours == pytest.approx(reference.grzo_step(params, lambda: task.losses(twin, together), step=step, **settings))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)


RUN = {
    **{"model": "tiny-random-llama", "task": "rotten_tomatoes", "optimizer": "grzo", "lr": 1e-3, "eps": 1e-2},
    **{"steps": 4, "batch_size": 4, "train": 16, "dev": 8, "test": 8, "eval_every": 2},
}


@pytest.mark.parametrize("more", [{}, {"optim_args": "rank=3, interval=2"}, {"tuning": "lora", "samples": 2}])
def test_a_run_is_replayed_and_goes_on_to_the_same_bits(tmp_path, monkeypatch, more):
    config = Config(**RUN, **more)
    whole = finetune(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "halves", progress=False)
    halves = finetune(config, tmp_path / "halves", progress=False)
    assert equal(weights(whole.model), weights(halves.model))
    record = load_record(tmp_path / "whole" / "record.json")
    assert record["result"]["forwards"] == 8 * config.samples
    completed = command("verify", tmp_path / "whole", "--curve")
    assert completed.status == 0, completed.errors


# --- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, r"^rank is 4, but 2\.weight is a matrix of 3 x 51"),
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"interval": 0}, "interval must be a whole number of at least 1, got 0"),
        ({"group_relative": 1}, "group_relative must be True or False, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GRZO(network().named_parameters(), **settings)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda losses: losses.mean(),
            r"the loss of each example, and the closure returned a tensor of shape \(\); return a vec",
        ),
        (lambda losses: float(losses.mean()), r"the closure returned \d\.\d*; return a vector with one loss for each, as"),
        (lambda losses: losses[:, None], r"returned a tensor of shape \(5, 1\); return a vector"),
        (lambda losses: losses[:0], r"returned a tensor of shape \(0,\); return a vector"),
        (lambda losses: losses[:1], "there is one example: use at least 2 of them, or group_relative=False"),
        (lambda losses: losses[:4], "modules were given 5 rows where the closure returned 4 losses"),
        (lambda losses: losses * math.inf, "returned (nan|inf)"),
    ],
)
def test_losses_that_are_not_those_of_the_examples_are_refused(returned, message):
    model = network()
    optimizer, before, losses = grzo(model), weights(model), each_of(model)
    with pytest.raises((ValueError, FloatingPointError), match=message):
        optimizer.step(lambda: returned(losses()))
    assert equal(before, weights(model))
    assert optimizer.steps == 0
    optimizer.step(losses)


def test_other_ways_to_evaluate_are_refused():
    model = network()
    losses = each_of(model)
    with pytest.raises(ValueError, match=r"weights in place cannot be: call look_through\(model\)"):
        GRZO(model.parameters()).step(losses)
    optimizer, many, few = grzo(model), each_of(model, 5), each_of(model, 4)
    turns = iter([many, few])
    with pytest.raises(ValueError, match="returned 5 losses, then 4; keep to one batch"):
        optimizer.step(lambda: next(turns)())
    with rows_of(torch.arange(3)), pytest.raises(ValueError, match=r"given 5 rows where zolab\.noise\.rows_of told of 3"):
        optimizer.step(losses)
    x = torch.ones(37)
    with pytest.raises(ValueError, match="a Linear was given one row alone"):
        optimizer.step(lambda: model(x))
    assert equal(weights(model), weights(network()))


def test_matrices_of_other_modules_are_refused_before_any_step():
    convolution = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten())
    with pytest.raises(ValueError, match=r"0\.weight belongs to a Conv1d, and only matrices of plain linear"):
        grzo(convolution)
    convolution[0].weight.requires_grad_(False)
    x = torch.randn(4, 2, 5)
    walk(grzo(convolution), lambda: convolution(x).square().mean(1), 1)


@kinds
def test_gpt2s_transposed_layers_are_the_references(rank, monkeypatch):
    """Its table of positions is an embedding, too, and is given a row an example."""
    monkeypatch.setattr("zolab.noise.pieces.SLICE", 64)  # so that U is made in parts
    config = GPT2Config(vocab_size=90, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval().double()
    twin, ids, settings = copy.deepcopy(model), torch.randint(5, 90, (3, 7)), {"lr": 1e-3, "eps": 1e-2, "seed": 3, "rank": rank}
    places = torch.arange(7).expand(3, 7)

    def losses_of(one):
        return lambda: functional.cross_entropy(
            one(input_ids=ids, position_ids=places).logits[:, -1], ids[:, 0], reduction="none"
        )

    optimizer, before = grzo(model, **settings), weights(model)
    for step in range(3):
        ours, theirs = (
            optimizer.step(losses_of(model)),
            reference.grzo_step(list(twin.parameters()), losses_of(twin), step=step, **settings),
        )
        assert ours == pytest.approx(theirs)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert not equal(before, weights(model))


@pytest.mark.parametrize("family", ["opt", "qwen2"])
@pytest.mark.parametrize("adapter", [None, LoRA(r=2)])
def test_a_batch_of_ones_own_is_the_references_on_every_family(family, adapter):
    """No pack, no task: rows are examples; OPT's positions are an embedding of its own."""
    model = tiny_model(family)
    if adapter:
        adapter.attach(model)
    model, twin, ids = model.double(), copy.deepcopy(model).double(), torch.randint(5, 90, (3, 7))

    def losses_of(one):
        return lambda: functional.cross_entropy(one(input_ids=ids).logits[:, -1], ids[:, 0], reduction="none")

    ours, theirs = ([p for p in one.parameters() if p.requires_grad] for one in (model, twin))
    settings = {"lr": 1e-3, "eps": 1e-2, "seed": 3}
    optimizer = GRZO(ours, **settings).look_through(model)
    for step in range(2):
        optimizer.step(losses_of(model))
        reference.grzo_step(theirs, losses_of(twin), step=step, **settings)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--probe", "in_place"], "which weights in place cannot be: leave --probe at auto"),
        (["--objective", "accuracy"], "takes its loss: leave --objective at loss"),
        (["--tuning", "prefix"], "all of a batch share a prefix: choose --tuning full or lora"),
        (["--batch_size", 1], "raise batch_size, or write --optim_args group_relative=False"),
        (["--optim_args", "rank=1000"], "is a matrix of"),
    ],
)
def test_the_command_line_refuses_before_any_work(tmp_path, words, sentence):
    settings = {**RUN, "batch_size": 4}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    refused = command("finetune", *options, "--out", tmp_path / "run", *words)
    assert refused.status != 0
    assert sentence in refused.errors
    assert not (tmp_path / "run" / "log.jsonl").exists()
    Config(**{**RUN, "batch_size": 1, "optim_args": "group_relative=False"}).validate()


def test_the_shared_direction_is_mezos():
    tensors = matrix()
    assert torch.equal(of_step(tensors, 3).shared(0, slice(0, 620)), noise.direction(Direction(4, 3), 0, 620))
