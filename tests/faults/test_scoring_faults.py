"""Scores that would be wrong without a word: they are right, or there is a sentence."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM

from zolab.models import load_model, tiny_model
from zolab.tasks import Example, cut, load_task
from zolab.tasks import logits as passes
from zolab.tasks.generation import generate
from zolab.tasks.judgement import judge, judged
from zolab.tasks.scoring import encode, option_log_probs
from zolab.tasks.tokens import tokenize

SIZES = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
LINEAR |= {"layer_types": ["linear_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 2}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WITH_STATE = {
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "minimax": EXPERTS | {"layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "granitemoehybrid": MAMBA | EXPERTS | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "jamba": {"mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
    "falcon": {"alibi": True},  # no state, but positions that a row of several texts has its own way
}
ATTENTION = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma3_text": {"head_dim": 8},
    "mixtral": EXPERTS | {"sliding_window": None},
    "olmoe": EXPERTS,
    "qwen3_moe": EXPERTS,
}
QUESTIONS = [("Is it so, then?", (" yes", " no"), 0), ("Was it a good film? It was", (" so", " not so"), 1)]


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny-random-llama")


def tiny_of(family, settings, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **(SIZES | settings))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype).eval()


# --- losses that are no numbers


def overflowing(family, dtype):
    """A model whose learned positions overflow from the 60th token on."""
    model, tokenizer = load_model(f"tiny-random-{family}", dtype)
    with torch.no_grad():
        dict(model.named_modules())["model.decoder.embed_positions"].weight[62:] = torch.inf
    return model, tokenizer


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_evaluation_without_a_finite_loss_stops(dtype):
    model, tokenizer = overflowing("opt", dtype)
    task = load_task("rotten_tomatoes")
    examples = [Example("good" * size, (" terrible", " great"), 1) for size in (2, 3, 30)]
    message = rf"1 of 3 examples have no finite loss under OPTForCausalLM in {dtype}; use float32, or other weights\."
    for evaluation in (task.evaluate, task.score):
        with pytest.raises(FloatingPointError, match=message):
            evaluation(model, tokenizer, examples, batch_size=1)
    assert np.isfinite(task.evaluate(model, tokenizer, examples[:2]).loss)
    with pytest.raises(FloatingPointError, match=r"have no finite loss"):
        judge(task, model, tokenizer, examples[:2], examples[2:])


def test_an_answer_of_no_numbers_is_not_written():
    model, tokenizer = overflowing("opt", "float16")
    task = load_task("squad")
    examples = [Example("x" * size, (" a\n",), 0, references=(("a",),)) for size in (9, 99)]
    with pytest.raises(FloatingPointError, match="1 of 2 examples have no finite loss"):
        task.evaluate(model, tokenizer, examples, batch_size=1)
    with pytest.raises(FloatingPointError, match=r"the model \(float16\) scores a token with nan; load it as float32"):
        generate(model, tokenizer, ["x" * 99])


def test_a_class_that_is_missing_has_no_auc():
    judgement = judged(np.full((4, 2), 0.5), np.array([0, 1, 1, 1]), training=2)
    assert judgement.auc is None
    assert "AUC" not in str(judgement)


# --- models that do not keep packed texts apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", WITH_STATE)
def test_a_model_with_a_state_is_refused(tiny, family, dtype):
    model = tiny_of(family, WITH_STATE[family], dtype)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} cannot score several texts in one row.*; use a") as excinfo:
        option_log_probs(model, encode(tiny[1], QUESTIONS))
    assert len(str(excinfo.value)) < 300


@pytest.mark.parametrize("family", ATTENTION)
@torch.no_grad()
def test_a_model_of_attention_scores_as_one_text_at_a_time(tiny, family):
    tokenizer = tiny[1]
    for dtype in (torch.bfloat16, torch.float32):
        model = tiny_of(family, ATTENTION[family], dtype)
        log_probs = option_log_probs(model, encode(tokenizer, QUESTIONS))
    alone = []
    for prompt, candidates, _ in QUESTIONS:
        for candidate in candidates:
            ids = torch.tensor([tokenizer(prompt + candidate)["input_ids"]])
            scores = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            alone.append(scores[-len(candidate) :].mean())
    torch.testing.assert_close(log_probs, torch.stack(alone), rtol=0, atol=1e-6)


def test_a_model_is_looked_at_once_and_in_eval_mode(tiny):
    model = tiny_of("gpt2", ATTENTION["gpt2"])  # it has dropout
    model.train()
    model.transformer.h[0].eval()
    modes, calls = [module.training for module in model.modules()], []
    model.register_forward_hook(lambda *_: calls.append(1))
    batch = encode(tiny[1], QUESTIONS)
    for _ in range(3):
        option_log_probs(model, batch)
    assert len(calls) == 3 + 3 * len(batch.packs)
    assert [module.training for module in model.modules()] == modes


def test_attention_that_cannot_be_changed_asks_for_another_model(tiny):
    model = tiny_of("bloom", {"n_layer": 2, "n_head": 4})
    with pytest.raises(ValueError, match="BloomForCausalLM uses eager; use another model"):
        option_log_probs(model, encode(tiny[1], QUESTIONS))


# --- what a tokenizer appends


def with_template(tokenizer, single):
    tokenizer = copy.deepcopy(tokenizer)
    special = [("<s>", 0), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("before", ["", "<s> "])
def test_an_appended_end_token_is_not_scored(tiny, before):
    model, tokenizer = tiny
    plain, ended = with_template(tokenizer, f"{before}$A"), with_template(tokenizer, f"{before}$A </s> </s>")
    assert ended("x")["input_ids"][-2:] == [2, 2]
    assert tokenize(ended, ["", "x", "</s>"]) == tokenize(plain, ["", "x", "</s>"])
    assert torch.equal(option_log_probs(model, encode(plain, QUESTIONS)), option_log_probs(model, encode(ended, QUESTIONS)))
    assert generate(model, plain, ["Is it?", "Or not so?"]) == generate(model, ended, ["Is it?", "Or not so?"])
    task = load_task("rotten_tomatoes")
    examples = task.demonstrate(task.held_out(0, 8), 2)
    assert task.evaluate(model, plain, examples) == task.evaluate(model, ended, examples)
    for length in (len(plain("x" * 90 + " great")["input_ids"]), 90):
        plain.model_max_length = ended.model_max_length = length
        one = [Example("x" * 90, (" bad", " great"), 0)]
        assert cut(task, plain, one) == cut(task, ended, one) == (length == 90)


# --- where an answer begins and ends


@pytest.mark.parametrize("name", ["tiny-reviews", "smollm2-135m"])
def test_an_answer_that_melts_into_its_prompt_is_refused(name):
    tokenizer = load_model(name)[1]
    with pytest.raises(ValueError, match=r"'bug' after 'This is a' shares a token with it; let the answer begin with a space"):
        encode(tokenizer, [("This is a", ("bug", "feature"), 0)])
    encode(tokenizer, [("This is a", (" bug", " feature"), 0), ("Is this a bug?\n", ("Yes", "No"), 0)])


@pytest.mark.parametrize("named", [int, list])
def test_every_end_token_ends_an_answer(monkeypatch, named):
    model, tokenizer = load_model("tiny-reviews")
    prompt = "The film was"
    batch = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=9, do_sample=False, pad_token_id=1)[0, batch.input_ids.shape[1] :].tolist()
    assert generate(model, tokenizer, [prompt], 9) == [tokenizer.decode(ids).strip()]
    end = ids[4]
    monkeypatch.setattr(model.generation_config, "eos_token_id", end if named is int else [tokenizer.eos_token_id, end])
    assert generate(model, tokenizer, [prompt], 9) == [tokenizer.decode(ids[: ids.index(end)]).strip()]


def test_every_way_in_which_a_prompt_is_cut_is_counted(tiny):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.model_max_length = 100
    examples = [Example("x" * size, (" a", " bcd"), 0) for size in (96, 97)]
    assert cut(load_task("sst2"), tokenizer, examples) == 1
    written = [Example("x" * size, (" a\n",), 0, references=(("a",),)) for size in (50, 51, 98)]
    assert cut(load_task("squad"), tokenizer, written) == 2
    task = load_task("masked_mnli")
    rows = [{"premise": "p" * p, "hypothesis": "h" * h, "label": 0} for p, h in ((9, 9), (242, 1), (200, 60))]
    assert task.are_cut(load_model("tiny-random-roberta")[1], [task.template(row) for row in rows]) == [False, True, True]


# --- what stops a pass

HOOKING = {"register_forward_pre_hook", "remove"}


def test_an_interrupt_at_any_line_of_a_pass_leaves_the_model_as_it_was(tiny):
    tokenizer, model = tiny[1], tiny_model("llama")
    batch, ids = encode(tokenizer, QUESTIONS), torch.arange(3, 12)[None]
    with torch.no_grad():
        scores, plain = option_log_probs(model, batch), model(ids).logits
        count = 0

        def interrupted(after):
            """Stop a scoring pass after so many lines of the functions that handle the hook."""
            model, lines = tiny_model("llama"), iter(range(after))

            def trace(frame, event, _):
                watched = frame.f_code.co_filename == passes.__file__ or frame.f_code.co_name in HOOKING
                if watched and event == "line" and next(lines, None) is None:
                    raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                option_log_probs(model, batch)
                return None
            except KeyboardInterrupt:
                return model
            finally:
                sys.settrace(None)

        while (stopped := interrupted(after=count)) is not None:
            assert torch.equal(stopped(ids).logits, plain)
            assert torch.equal(option_log_probs(stopped, batch), scores)
            count += 1
        assert count > 40


def test_threads_may_score_with_one_model(tiny):
    tokenizer, model = tiny[1], tiny_model("llama")
    batches = [encode(tokenizer, [(f"{'word ' * n}It was", (" a", " bc"), 0)]) for n in range(1, 9)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        log_probs = list(pool.map(torch.no_grad()(lambda batch: option_log_probs(model, batch)), batches))
        assert all(torch.equal(a, option_log_probs(model, batch)) for a, batch in zip(log_probs, batches, strict=True))
