"""Whole tasks beside a scorer that is plain on purpose: one candidate a forward pass, nothing packed, shared or cached.

The language model is the embedded one, whose tokens merge where they like and whose answers are English.
"""

import os

import pytest
import torch

from zolab.models import load_model
from zolab.tasks import load_task
from zolab.tasks.generation import generate

SAMPLES = os.environ.get("ZOLAB_DATA")
needs_samples = pytest.mark.skipif(
    not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine"
)


@pytest.fixture(scope="module")
def embedded():
    return load_model()


def plain_tokens(model, tokenizer, prompt, candidate):
    """Log-probability of each token that the candidate adds to the prompt."""
    ids = tokenizer((prompt.lstrip() + candidate).rstrip(" "))["input_ids"]
    start = len(tokenizer(prompt.strip(" "))["input_ids"])
    logs = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return torch.stack([logs[place - 1, ids[place]] for place in range(start, len(ids))])


def plain_options(model, tokenizer, examples):
    """Loss, and the probability of each candidate: a softmax over mean log-probabilities."""
    losses, chosen = [], []
    for e in examples:
        means = torch.stack([plain_tokens(model, tokenizer, e.prompt, candidate).mean() for candidate in e.candidates])
        losses.append(-means.log_softmax(0)[e.answer])
        chosen.append(means.softmax(0))
    return torch.stack(losses).mean(), chosen


def plain_answers(model, tokenizer, examples):
    """Mean over the tokens of all right candidates, and the probability of each candidate."""
    losses, chosen = [], []
    for e in examples:
        tokens = [plain_tokens(model, tokenizer, e.prompt, candidate) for candidate in e.candidates]
        losses.append(-tokens[e.answer])
        chosen.append(torch.stack([log.mean() for log in tokens]).softmax(0))
    return torch.cat(losses).mean(), chosen


def plain_text(model, tokenizer, prompt):
    """What `generate` of transformers writes greedily, up to the end of the line."""
    inputs = tokenizer(prompt.strip(" "), return_tensors="pt")
    options = {"max_new_tokens": 50, "do_sample": False, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    ids = model.generate(**inputs, **options)[0, inputs.input_ids.shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0].strip()


def assert_choices_are_plain(name, plain, model, tokenizer, count):
    task = load_task(name)
    examples = task.held_out(0, count)
    loss, chosen = plain(model, tokenizer, examples)
    scores = task.score(model, tokenizer, examples, batch_size=3)
    assert scores.loss == pytest.approx(float(loss), abs=1e-4)
    torch.testing.assert_close(task.loss(model, task.encode(tokenizer, examples)), loss, rtol=0, atol=1e-4)
    right = [int(c.argmax()) in (e.answer, *e.also) for c, e in zip(chosen, examples, strict=True)]
    assert scores.metrics["accuracy"].tolist() == right
    for e, probabilities in zip(examples, chosen, strict=True):
        torch.testing.assert_close(task.predict(model, tokenizer, [e])[0], probabilities, rtol=0, atol=1e-4)


@torch.no_grad()
def test_embedded_reviews(embedded):
    assert_choices_are_plain("rotten_tomatoes", plain_options, *embedded, 6)


@needs_samples
@pytest.mark.parametrize(
    ("name", "count"),
    [("sst2", 4), ("rte", 3), ("cb", 3), ("boolq", 2), ("wsc", 4), ("wic", 4), ("multirc", 2)],
)
@torch.no_grad()
def test_questions_with_options(embedded, name, count):
    assert_choices_are_plain(name, plain_options, *embedded, count)


@needs_samples
@pytest.mark.parametrize(("name", "count"), [("copa", 4), ("record", 1)])
@torch.no_grad()
def test_choices_of_a_continuation(embedded, name, count):
    assert_choices_are_plain(name, plain_answers, *embedded, count)


@needs_samples
@pytest.mark.parametrize("name", ["squad", "drop"])
@torch.no_grad()
def test_written_answers(embedded, name):
    model, tokenizer = embedded
    task = load_task(name)
    examples = task.held_out(0, 2)
    loss, _ = plain_answers(model, tokenizer, examples)
    texts = [plain_text(model, tokenizer, e.prompt) for e in examples]
    assert generate(model, tokenizer, [e.prompt for e in examples]) == texts
    evaluated = task.score(model, tokenizer, examples)
    assert evaluated.loss == pytest.approx(float(loss), abs=1e-4)
    torch.testing.assert_close(task.loss(model, task.encode(tokenizer, examples)), loss, rtol=0, atol=1e-4)
    judged = [task.judge(text, e.references) for text, e in zip(texts, examples, strict=True)]
    assert {metric: values.tolist() for metric, values in evaluated.metrics.items()} == {
        metric: [scores[metric] for scores in judged] for metric in evaluated.metrics
    }
