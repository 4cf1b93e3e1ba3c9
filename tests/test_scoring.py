"""Scores of candidates against a plain full-softmax scorer, for every model family; what is shared, and what is refused."""

import itertools
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from zolab import MeZO
from zolab.models import load_model, tiny_model
from zolab.tasks import Example, Task, load_task
from zolab.tasks.packing import PACK_TOKENS, pack
from zolab.tasks.scoring import encode, option_log_probs

SAMPLES = os.environ.get("ZOLAB_DATA")
CAUSAL = ["llama", "opt", "qwen2", "qwen3"]
QUESTIONS = [
    ("short It was", (" a", " b"), 0),
    ("a much longer prompt, " * 6 + "It was", (" terrible", " great", " so so"), 2),
    ("trailing space ", ("yes", "no"), 1),
    ("x" * 100, (" one", " one and more"), 0),
    ("a passage that three questions share. " * 9 + "First?\n", ("Yes", "No"), 0),
    ("a passage that three questions share. " * 9 + "Second?\n", ("Yes", "No"), 1),
    (
        "a passage that three questions share. " * 9 + "-",
        tuple(f" then {name} went home." for name in ("Ann", "Anna", "Bo")),
        2,
    ),
]


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny-random-llama")


def plain_scores(model, tokenizer, prompt, candidates, max_length=2048):
    """Mean log-probability of each candidate's tokens: one row at a time, all logits, no sharing, no padding."""
    scores = []
    start = len(tokenizer(prompt.rstrip(" "))["input_ids"])
    for candidate in candidates:
        ids = tokenizer(prompt + candidate)["input_ids"]
        option = len(ids) - start
        if len(ids) > max_length:
            ids = [ids[0], *ids[len(ids) - (max_length - 1) :]]
        ids = torch.tensor([ids])
        logs = model(ids).logits.float().log_softmax(-1)[0, :-1]
        scores.append(logs.gather(-1, ids[0, 1:, None]).squeeze(-1)[-option:].mean())
    return torch.stack(scores)


def assert_scores_are_plain(model, tokenizer, questions, max_length=2048):
    batch = encode(tokenizer, questions, max_length)
    ours = option_log_probs(model, batch).split(batch.sizes)
    for scores, (prompt, candidates, _) in zip(ours, questions, strict=True):
        plain = plain_scores(model, tokenizer, prompt, candidates, max_length)
        torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-5)
    return batch


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_scores_equal_a_plain_scorer(family):
    """Ragged candidates, answers of several tokens, prompts of very different length, shared and unshared rows."""
    batch = assert_scores_are_plain(*load_model(f"tiny-random-{family}"), QUESTIONS)
    assert any(part.attention_mask is not None for part in batch.packs)


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False, "tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 16}),
    ],
)
@torch.no_grad()
def test_ties_biases_and_projections(tiny, family, variant):
    config = tiny_model(family).config
    config = type(config).from_dict(config.to_dict() | variant)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == variant["tie_word_embeddings"]
    assert_scores_are_plain(model, tiny[1], QUESTIONS)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_step_of_every_family(family):
    model, tokenizer = load_model(f"tiny-random-{family}")
    task = load_task("rotten_tomatoes")
    batch = task.encode(tokenizer, task.sample(0, 4, 2, 2).train)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-3, seed=0)
    with torch.no_grad():
        at_start = float(task.loss(model, batch))
    assert optimizer.step(lambda: task.loss(model, batch)) == pytest.approx(at_start, abs=0.1)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


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
    assert task.evaluate(model, tokenizer, examples, batch_size=3).loss == pytest.approx(float(loss), abs=1e-5)


class Choice(Task):
    name, objective, source = "choice", "answer", None

    def template(self, row):
        raise NotImplementedError


@torch.no_grad()
def test_answer_loss_is_the_token_mean_on_the_right_candidate(tiny):
    model, tokenizer = tiny
    task = Choice()
    examples = [
        Example("The man slept so", (" he woke.", " he was rested, at last."), 1),
        Example("It", (" a", " b"), 0),
        Example("All three", (" x", " yy", " zzz"), 0, also=(1, 2)),
    ]
    total = count = 0
    for e in examples:
        gold = e.candidates[e.answer]
        tokens = len(tokenizer(e.prompt + gold)["input_ids"]) - len(tokenizer(e.prompt)["input_ids"])
        total += float(plain_scores(model, tokenizer, e.prompt, [gold])[0]) * tokens
        count += tokens
    assert float(task.loss(model, task.encode(tokenizer, examples))) == pytest.approx(-total / count, abs=1e-4)
    loss, metrics = task.score(model, tokenizer, examples, batch_size=2)
    assert loss == pytest.approx(-total / count, abs=1e-4)
    chosen = [int(plain_scores(model, tokenizer, e.prompt, e.candidates).argmax()) for e in examples]
    assert metrics["accuracy"].tolist() == [chosen[0] == 1, chosen[1] == 0, True]
    assert task.evaluate(model, tokenizer, examples).metric == metrics["accuracy"].mean()


@torch.no_grad()
def test_predictions_are_probabilities_of_the_candidates(tiny):
    model, tokenizer = tiny
    task = load_task("rotten_tomatoes")
    examples = task.held_out(0, 5)
    probabilities = task.predict(model, tokenizer, examples)
    plain = torch.stack([plain_scores(model, tokenizer, e.prompt, e.candidates).softmax(0) for e in examples])
    torch.testing.assert_close(probabilities, plain, rtol=1e-4, atol=1e-5)


# --- what is computed


@torch.no_grad()
def test_packs_of_random_texts_equal_one_text_at_a_time(tiny):
    """Texts that branch anywhere, contain one another, repeat, or have nothing in common."""
    model, _ = tiny
    generator = torch.Generator().manual_seed(0)
    trunk = torch.randint(3, 250, (90,), generator=generator).tolist()
    texts = []
    for cut in (0, 1, 20, 40, 41, 60, 89, 90, 90, 90):
        texts.append(tuple(trunk[:cut] + torch.randint(3, 250, (1 + cut % 7,), generator=generator).tolist()))
    texts += [texts[3], texts[5][:30], tuple(trunk * 8)]
    places = [sorted({0, len(text) // 2, len(text) - 1}) for text in texts]
    packs, homes = pack(texts, places, causal=True)
    logits = []
    for part in packs:
        given = {"input_ids": part.input_ids, "position_ids": part.position_ids, "attention_mask": part.attention_mask}
        logits.append(model(**given).logits.flatten(0, 1)[part.places])
    for text, where, (number, rows) in zip(texts, places, homes, strict=True):
        alone = model(torch.tensor([text])).logits[0, where]
        torch.testing.assert_close(logits[number][rows], alone, rtol=1e-4, atol=1e-5)


def test_a_shared_beginning_is_laid_once():
    trunk = tuple(range(100, 500))
    texts = [(*trunk, 1, 2), (*trunk, 1, 3, 4), trunk, (7, 8), (*trunk[:150], 5)]
    packs, homes = pack(texts, [[len(text) - 1] for text in texts], causal=True)
    by_text = [packs[number] for number, _ in homes]
    assert by_text[0] is by_text[1] is by_text[2]
    assert by_text[0].input_ids.shape == (1, len(trunk) + 4 + len((7, 8)) + 1)
    assert by_text[0].position_ids.max() == 402
    assert all(len(set(p.places.tolist())) == len(p.places) for p in packs)


def test_packs_hold_every_text_once_and_keep_to_their_size():
    texts = [tuple(range(2000 * n, 2001 * n)) for n in (5, 60, 61, 7, 9, PACK_TOKENS - 1, PACK_TOKENS + 40, 33)]
    packs, homes = pack(texts, [[0]] * len(texts), causal=True)
    small, *large = sorted(packs, key=lambda part: part.input_ids.numel())
    assert [part.input_ids.shape for part in large] == [(1, PACK_TOKENS - 1), (1, PACK_TOKENS + 40)]
    assert all(part.attention_mask is None for part in large)
    assert small.input_ids.shape == (3, 61)  # 61; 60; 33 + 9 + 7 + 5
    for text, (number, (index,)) in zip(texts, homes, strict=True):
        laid, place = packs[number].input_ids.flatten().tolist(), int(packs[number].places[index])
        assert tuple(laid[place : place + len(text)]) == text


def test_rows_are_even_and_many_when_texts_are_short():
    generator = torch.Generator().manual_seed(0)
    texts = [tuple(torch.randint(9999, (n,), generator=generator).tolist()) for n in torch.arange(20, 48)]
    (part,), _ = pack(texts, [[0]] * len(texts), causal=True)
    rows, width = part.input_ids.shape
    assert rows >= 4
    assert rows * width <= 1.1 * sum(map(len, texts))
    assert part.attention_mask.diagonal(dim1=-2, dim2=-1).all()  # a token that sees nothing would become NaN


def test_one_token_candidates_cost_one_text_and_one_row_of_logits(tiny):
    model, tokenizer = tiny
    shapes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    questions = [("is it so?", ("Y", "N"), 0), ("or so, at some greater length?", ("Y", "N"), 1)]
    batch = encode(tokenizer, questions)
    option_log_probs(model, batch)
    hook.remove()
    assert sum(shape[-2] for shape in shapes) == 2
    assert sum(p.input_ids.numel() for p in batch.packs) == sum(len(tokenizer(q[0])["input_ids"]) for q in questions)


def test_logits_are_computed_only_where_a_token_is_scored(tiny):
    model, tokenizer = tiny
    shapes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    batch = encode(tokenizer, [("It was", (" terrible", " great"), 0), ("That was", (" great",), 0)])
    option_log_probs(model, batch)
    hook.remove()
    # " terrible" has 9 tokens and " great" 6, the first two of which are predicted where the other's are: 9 + 4, and 6
    assert sum(shape[-2] for shape in shapes) == 19
    assert len(batch.targets) == 21


# --- precision


def test_half_precision_models_have_float32_losses():
    model, tokenizer = load_model("tiny-random-llama", "bfloat16")
    task = load_task("rotten_tomatoes")
    loss = task.loss(model, task.encode(tokenizer, task.sample(0, 4, 2, 2).train))
    assert loss.dtype == torch.float32


@torch.no_grad()
def test_autocast_computes_in_bfloat16_and_loses_in_float32(tiny):
    model, tokenizer = tiny
    plain, cast = load_task("rotten_tomatoes"), load_task("rotten_tomatoes", autocast=True)
    examples = plain.sample(0, 8, 4, 4).train
    batch, dtypes = plain.encode(tokenizer, examples), []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    exact, loss = plain.loss(model, batch), cast.loss(model, batch)
    hook.remove()
    assert set(dtypes) == {torch.float32, torch.bfloat16}
    assert loss.dtype == torch.float32
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=0, atol=0.02)
    assert cast.evaluate(model, tokenizer, examples).loss == pytest.approx(float(loss), abs=1e-6)
    for parameter in model.parameters():
        parameter.add_(0.05)
    assert cast.loss(model, batch) != loss  # no stale copy of the weights
    for parameter in model.parameters():
        parameter.sub_(0.05)


# --- length, and what is refused


@torch.no_grad()
def test_long_prompts_lose_their_left_but_keep_the_first_token(tiny):
    model, tokenizer = tiny
    question = ("!" + "ab" * 100, (" yes", " nope"), 0)
    batch = assert_scores_are_plain(model, tokenizer, [question], max_length=32)
    for part in batch.packs:
        assert int(part.position_ids.max()) <= 30
        assert set(part.input_ids[part.position_ids == 0].tolist()) == {tokenizer("!")["input_ids"][0]}


def test_the_tokenizer_may_know_a_shorter_context(tiny, monkeypatch):
    monkeypatch.setattr(tiny[1], "model_max_length", 20)
    assert int(encode(tiny[1], [("ab" * 100, (" yes", " nope"), 0)]).packs[0].position_ids.max()) <= 18


def test_a_model_of_a_shorter_context(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(model.config, "max_position_embeddings", 40)
    with pytest.raises(ValueError, match=r"a text of 101 tokens exceeds the 40 of LlamaForCausalLM.*max_length=40"):
        option_log_probs(model, encode(tokenizer, [("a" * 100, (" b",), 0)]))
    task = load_task("rotten_tomatoes")
    assert task.evaluate(model, tokenizer, [Example("a" * 100, (" b", " c"), 0)]).examples == 1  # is cut


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (("prompt", ("",), 0), r"'' after 'prompt' adds 0 tokens, where 1 to 2047 fit; change the template or model"),
        (("prompt", ("a" * 3000,), 0), r"adds 3000 tokens"),
        (("", ("a",), 0), r"an empty prompt"),
        (("   ", ("a",), 0), r"an empty prompt"),
    ],
)
def test_unscorable_questions(tiny, question, message):
    with pytest.raises(ValueError, match=message):
        encode(tiny[1], [question])


def test_an_attention_that_would_misread_the_mask(tiny):
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"LlamaForCausalLM uses eager; use model\.set_attn_implementation"):
        option_log_probs(model, encode(tiny[1], QUESTIONS))


def test_a_window_that_packs_would_ignore(tiny):
    """Within its window such a model is scored as any other; beyond, its layers would see less than the packs' mask says."""
    model, tokenizer = tiny_model("qwen2"), tiny[1]
    assert_scores_are_plain(model, tokenizer, QUESTIONS)
    model.config.sliding_window = 4
    with pytest.raises(ValueError, match=r"a text of \d+ tokens exceeds the sliding window of 4"):
        option_log_probs(model, encode(tokenizer, QUESTIONS))


def test_a_masked_model_cannot_continue_a_text():
    model, tokenizer = load_model("tiny-random-roberta")
    with pytest.raises(ValueError, match="needs a causal language model, which RobertaForMaskedLM is not"):
        option_log_probs(model, encode(tokenizer, [("prompt", (" a", " b"), 0)]))


# --- real samples


@pytest.mark.skipif(not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine")
@pytest.mark.parametrize("name", ["sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "record", "squad", "drop"])
@torch.no_grad()
def test_real_samples_score_as_plainly(tiny, name):
    """Texts of real length, some of them longer than the model's context."""
    examples = load_task(name).held_out(0, 6)
    assert_scores_are_plain(*tiny, [(e.prompt.lstrip(), e.candidates, e.answer) for e in examples])


@pytest.mark.skipif(not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine")
@torch.no_grad()
def test_the_embedded_model_scores_real_samples_as_plainly():
    """A real tokenizer, whose tokens may merge where prompt and candidate meet."""
    examples = itertools.chain(*(load_task(name).held_out(1, 2) for name in ("sst2", "wic", "copa", "cb")))
    assert_scores_are_plain(*load_model(), [(e.prompt.lstrip(), e.candidates, e.answer) for e in examples])
