"""Tasks: templates, sampling, scoring against a plain full-softmax scorer, and clear refusals."""

import json
import os
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch

from zolab.models import load_model
from zolab.tasks import TASKS, Example, Task, load_task
from zolab.tasks.data import Source
from zolab.tasks.packing import PACK_TOKENS, _groups
from zolab.tasks.scoring import encode, option_log_probs

SAMPLES = os.environ.get("ZOLAB_DATA")


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny-random-llama")


def plain_scores(model, tokenizer, prompt, candidates):
    """Mean log-probability of each candidate's tokens: one row at a time, all logits, no sharing, no padding."""
    scores = []
    start = len(tokenizer(prompt.rstrip(" "))["input_ids"])
    for candidate in candidates:
        ids = torch.tensor([tokenizer(prompt + candidate)["input_ids"]])
        logs = model(ids).logits.float().log_softmax(-1)[0, :-1]
        tokens = logs.gather(-1, ids[0, 1:, None]).squeeze(-1)
        scores.append(tokens[start - 1 :].mean())
    return torch.stack(scores)


@pytest.mark.parametrize("family", ["llama", "opt", "qwen2"])
@torch.no_grad()
def test_scores_equal_a_plain_scorer(family):
    """Ragged candidate counts, answers of several tokens, prompts of very different length, shared and unshared rows."""
    model, tokenizer = load_model(f"tiny-random-{family}")
    examples = [
        ("short It was", (" a", " b"), 0),
        ("a much longer prompt, " * 6 + "It was", (" terrible", " great", " so so"), 2),
        ("trailing space ", ("yes", "no"), 1),
        ("x" * 100, (" one", " one and more"), 0),
    ]
    batch = encode(tokenizer, examples)
    assert batch.packs[0].attention_mask is not None
    ours = option_log_probs(model, batch).split(batch.sizes)
    for scores, (prompt, candidates, _) in zip(ours, examples, strict=True):
        torch.testing.assert_close(scores, plain_scores(model, tokenizer, prompt, candidates), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_option_loss_is_cross_entropy_over_candidates(tiny):
    model, tokenizer = tiny
    task = load_task("rotten_tomatoes")
    examples = task.sample(0, 8, 4, 4).train
    expected = []
    for e in examples:
        expected.append(-plain_scores(model, tokenizer, e.prompt, e.candidates).log_softmax(0)[e.answer])
    loss = task.loss(model, task.encode(tokenizer, examples))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_answer_loss_is_the_token_mean_on_the_right_candidate(tiny):
    model, tokenizer = tiny

    class Choice(Task):
        name, objective, source = "choice", "answer", None

        def template(self, row):
            raise NotImplementedError

    task = Choice()
    examples = [Example("The man slept so", (" he woke.", " he was rested, at last."), 1), Example("It", (" a", " b"), 0)]
    loss = task.loss(model, task.encode(tokenizer, examples))
    total = count = 0
    for e in examples:
        gold = e.candidates[e.answer]
        tokens = len(tokenizer(e.prompt + gold)["input_ids"]) - len(tokenizer(e.prompt)["input_ids"])
        total += float(plain_scores(model, tokenizer, e.prompt, [gold])[0]) * tokens
        count += tokens
    assert abs(float(loss) + total / count) < 1e-4
    result = task.evaluate(model, tokenizer, examples)
    chosen = [int(plain_scores(model, tokenizer, e.prompt, e.candidates).argmax()) for e in examples]
    assert result.metric == sum(c == e.answer for c, e in zip(chosen, examples, strict=True)) / 2


def test_half_precision_models_have_float32_losses():
    model, tokenizer = load_model("tiny-random-llama", "bfloat16")
    task = load_task("rotten_tomatoes")
    loss = task.loss(model, task.encode(tokenizer, task.sample(0, 4, 2, 2).train))
    assert loss.dtype == torch.float32


def test_logits_are_computed_only_where_a_token_is_scored(tiny):
    model, tokenizer = tiny
    task = load_task("rotten_tomatoes")
    examples = task.sample(0, 8, 4, 4).train
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    batch = task.encode(tokenizer, examples)
    task.loss(model, batch)
    hook.remove()
    assert [shape[0] for shape in seen] == [len(batch.targets)]


@torch.no_grad()
def test_long_prompts_lose_their_left_but_keep_the_first_token(tiny):
    model, tokenizer = tiny
    batch = encode(tokenizer, [("ab" * 100, (" yes", " nope"), 0)], max_length=32)
    starts = [pack.input_ids[pack.position_ids == 0].tolist() for pack in batch.packs]
    assert max(int(pack.position_ids.max()) for pack in batch.packs) <= 30
    first = tokenizer("ab" * 100)["input_ids"][0]
    assert all(start == first for pack in starts for start in pack)
    assert torch.isfinite(option_log_probs(model, batch)).all()
    with pytest.raises(ValueError, match="adds"):
        encode(tokenizer, [("prompt", ("",), 0)])


def test_packs_hold_every_text_once():
    texts = [tuple(range(n)) for n in (5, 60, 61, 7, 9, PACK_TOKENS - 1, PACK_TOKENS + 40, 33)]
    groups = _groups(texts)
    assert sorted(text for group in groups for text in group) == sorted(texts)
    assert all(sum(map(len, group)) <= PACK_TOKENS or len(group) == 1 for group in groups)
    assert len(groups) == 3


def test_sampling_is_by_seed_and_splits_are_disjoint():
    task = load_task("rotten_tomatoes")
    one, again, other = task.sample(3, 50, 20, 30), task.sample(3, 50, 20, 30), task.sample(4, 50, 20, 30)
    assert one == again
    assert one != other
    assert [len(split) for split in one] == [50, 20, 30]
    pool = {e.prompt for seed in range(3) for split in task.sample(seed)[:2] for e in split}
    held_out = {e.prompt for seed in range(3) for e in task.sample(seed).test}
    assert not pool & held_out
    assert len({e.prompt for e in one.train} | {e.prompt for e in one.dev}) == 70


def test_small_data_keeps_dev_and_caps_the_rest(tmp_path, monkeypatch):
    write(tmp_path, [{"sentence": f"s{i}", "label": i % 2} for i in range(12)])
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    assert [len(split) for split in load_task("sst2").sample(0, 1000, 5, 1000)] == [7, 5, 12]
    with pytest.raises(ValueError, match="leaves none to train on"):
        load_task("sst2").sample(0, 10, 12, 5)
    with pytest.raises(ValueError, match="test must be at least 1"):
        load_task("sst2").sample(0, 10, 5, 0)


def test_templates_are_mezos():
    assert load_task("sst2").template({"sentence": "fine film ", "label": 1}) == Example(
        "fine film It was", (" terrible", " great"), 1
    )
    assert load_task("rotten_tomatoes").template({"text": "dull .", "label": 0}).prompt == "dull . It was"


def write(folder: Path, rows, task="sst2"):
    (folder / task).mkdir(exist_ok=True)
    for split in ("train", "validation"):
        (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": 1}], r"train\.jsonl lacks the column sentence; it has text, label"),
        ([{"sentence": "a", "label": 1}, {"sentence": "b", "label": -1}], "row 2 of .* has label -1"),
        ([{"sentence": "a", "label": 1}, {"sentence": "  ", "label": 0}], "row 2 of .* has an empty sentence"),
    ],
)
def test_wrong_schema_is_refused_in_one_sentence(tmp_path, monkeypatch, rows, message):
    write(tmp_path, rows)
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load_task("sst2").sample()


def test_missing_or_damaged_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no train\.jsonl"):
        load_task("sst2").sample()
    write(tmp_path, [{"sentence": "a", "label": 1}])
    (tmp_path / "sst2" / "train.jsonl").write_text('{"sentence": "a", "label"')
    with pytest.raises(ValueError, match="cannot be read"):
        load_task("sst2").sample()


def test_without_network_the_ways_out_are_named_at_once(monkeypatch):
    monkeypatch.delenv("ZOLAB_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(OSError, match=r"nobody/nothing is not on this machine.*cannot be reached.*ZOLAB_DATA.*rotten_tomatoes"):
        Source("nothing", ("nobody/nothing", None), ("text",)).rows("train")
    assert time.monotonic() - started < 10
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        Source("nothing", ("nobody/nothing", None), ("text",)).rows("train")


def test_missing_data_package(monkeypatch):
    import importlib.util

    from zolab.tasks import data

    data._rotten_tomatoes.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="make install"):
        load_task("rotten_tomatoes").sample()


def test_unknown_task():
    with pytest.raises(ValueError, match=r"unknown task 'sst9'; the tasks are .*sst2"):
        load_task("sst9")


@pytest.mark.skipif(not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine")
@pytest.mark.parametrize("name", [name for name in TASKS if name != "rotten_tomatoes"])
def test_real_samples_have_the_schema(name):
    splits = load_task(name).sample(0, 100, 50, 50)
    assert all(e.prompt and len(e.candidates) > e.answer >= 0 for split in splits for e in split)
