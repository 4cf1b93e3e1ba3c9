"""Answers written in free text: where they end, that padding does not matter, and how they are judged."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zolab.models import load_model
from zolab.runs.finetune import Config, finetune
from zolab.tasks import load_task
from zolab.tasks.generation import MAX_NEW_TOKENS, generate


class Parrot(nn.Module):
    """Writes after each byte the byte that a table says."""

    def __init__(self, tokenizer, table):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=2048)
        self.anchor = nn.Parameter(torch.zeros(1))
        ids = {key: tokenizer(key)["input_ids"][0] for key in set("".join(table) + "".join(table.values()))}
        self.follows = {ids[key]: tokenizer.eos_token_id if value == "" else ids[value] for key, value in table.items()}
        self.fed = []

    def can_generate(self):
        return True

    def get_input_embeddings(self):
        return nn.Embedding(260, 1)

    def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        self.fed.append((input_ids, position_ids))
        after = [self.follows.get(token, token) for token in input_ids[:, -1].tolist()]
        return SimpleNamespace(logits=nn.functional.one_hot(torch.tensor(after), 260)[:, None].float(), past_key_values=None)


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny-random-llama")[1]


def test_an_answer_ends_with_its_line_or_its_text(tokenizer):
    parrot = Parrot(tokenizer, {":": "P", "P": "a", "a": "\n", "\n": "P", "?": "Q", "Q": "", "!": "\n"})
    assert generate(parrot, tokenizer, ["Answer:", "a longer question?", "nothing!", "x"]) == ["Pa", "Q", "", "x" * 50]
    assert len(parrot.fed) == MAX_NEW_TOKENS
    assert parrot.fed[0][1][0].tolist() == [0] * 11 + list(range(7))  # padded on the left; positions count from the text
    assert parrot.fed[1][1][:, 0].tolist() == [7, 18, 8, 1]
    parrot.fed.clear()
    assert generate(parrot, tokenizer, ["A:", "B?"]) == ["Pa", "Q"]
    assert len(parrot.fed) == 3  # nobody writes on


def test_a_long_prompt_leaves_room_for_its_answer(tokenizer):
    parrot = Parrot(tokenizer, {":": ""})
    generate(parrot, tokenizer, ["!" + "x" * 3000 + ":"])
    ids = parrot.fed[0][0][0]
    assert len(ids) == 2048 - MAX_NEW_TOKENS
    assert tokenizer.decode(ids[[0, -1]]) == "!:"
    parrot.config.max_position_embeddings = 60
    generate(parrot, tokenizer, ["!" + "x" * 3000 + ":"])
    assert parrot.fed[-1][0].shape == (1, 10)
    with pytest.raises(ValueError, match="leaves no room for a prompt before 60 new tokens"):
        generate(parrot, tokenizer, ["x"], max_new_tokens=60)


@pytest.mark.parametrize("family", ["llama", "opt", "qwen2", "qwen3"])
def test_greedy_answers_are_those_of_transformers_one_by_one(family):
    model, tokenizer = load_model(f"tiny-random-{family}")
    with torch.no_grad():  # random weights repeat themselves; larger ones write more
        for parameter in model.parameters():
            parameter.mul_(4)
    prompts = ["One.", "A second, longer prompt, to be padded against", "The third is here"]
    answers = generate(model, tokenizer, prompts, max_new_tokens=12)
    for prompt, text in zip(prompts, answers, strict=True):
        batch = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**batch, max_new_tokens=12, do_sample=False, pad_token_id=1)[0, batch.input_ids.shape[1] :]
        assert text == tokenizer.decode(ids, skip_special_tokens=True).partition("\n")[0].strip()
    assert len(set(answers)) == 3


def test_a_masked_model_cannot_write():
    with pytest.raises(ValueError, match="needs a causal language model, which RobertaForMaskedLM is not"):
        generate(*load_model("tiny-random-roberta"), ["x"])


def rows(count):
    passage = "The band had {} players and two singers, Ann and Bob."
    return [
        {
            "passage": passage.format(n),
            "question": f"How many players, no. {n}?",
            "answers_spans": {"spans": [f"{n}", "Bob"], "types": ["span", "span"]},
        }
        for n in range(count)
    ]


def test_drop_names_the_papers_metric_and_the_official_one_apart(tokenizer):
    task = load_task("drop")
    assert task.judge("Bob", [["Ann", "bob"]]) == {"f1": 1.0, "em": 1.0, "official_f1": 0.5, "official_em": 0.0}
    assert task.judge("7.0", [["7"]]) == {"f1": 0.0, "em": 0.0, "official_f1": 1.0, "official_em": 1.0}
    assert set(task.judge("7", [["8"], ["7"]]).values()) == {1.0}  # the best annotator
    assert load_task("squad").judge("the Bob.", [["bob"], ["Ann"]]) == {"f1": 1.0, "em": 1.0}


def test_scores_keep_the_order_of_the_examples(tokenizer, monkeypatch):
    """Examples are answered sorted by length, three at a time; the i-th score is the i-th example's."""
    task = load_task("drop")
    examples = [task.template(row) for row in rows(7)[::-1]]
    model = load_model("tiny-random-llama")[0]
    monkeypatch.setattr("zolab.tasks.generation.generate", lambda model, tokenizer, prompts: [p[22:23] for p in prompts])
    metrics = task.score(model, tokenizer, examples, batch_size=3).metrics
    assert metrics["f1"].tolist() == [1.0] * 7
    assert metrics["official_f1"].tolist() == [0.5] * 7
    examples[2] = task.template(rows(9)[8] | {"answers_spans": {"spans": ["nine"], "types": ["span"]}})
    assert task.score(model, tokenizer, examples, batch_size=3).metrics["em"].tolist() == [1, 1, 0, 1, 1, 1, 1]
    with torch.no_grad():
        whole = task.loss(model, task.encode(tokenizer, examples))
    assert task.evaluate(model, tokenizer, examples).loss == pytest.approx(float(whole), abs=1e-5)
    assert task.evaluate(model, tokenizer, examples).metric == 6 / 7


def test_a_run_on_a_generation_task(tmp_path, monkeypatch):
    (tmp_path / "drop").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "drop" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows(12))))
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    config = Config(model="tiny-random-llama", task="drop", steps=2, eval_every=2, batch_size=4, dev=2, test=2)
    result = finetune(config, tmp_path / "run", progress=False).record["result"]
    assert result["test"]["after"]["examples"] == 2
    assert 0 <= result["test"]["after"]["metric"] <= 1
    assert result["train"]["before"]["loss"] > 0
