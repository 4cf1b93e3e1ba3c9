"""Every task of the papers' tables, end to end: drawn, trained on for two steps, evaluated with the metric that they report."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from zolab.models import load_model, tiny_model
from zolab.runs.finetune import Config, finetune
from zolab.tasks import load_task

SAMPLES = os.environ.get("ZOLAB_DATA")
METRICS = dict.fromkeys(("sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "record"), "accuracy")
METRICS |= dict.fromkeys(("squad", "drop"), "f1")  # both papers' Table 1
METRICS |= {f"masked_{name}": "accuracy" for name in ("sst2", "sst5", "snli", "mnli", "rte", "trec")}  # AdaMeZO, Table 2

NAMES, COLOURS = ("Ann", "Bob", "Eve", "Tom"), ("red", "green", "blue", "grey")


def name(i):
    return NAMES[i % 4]


def sentence(i):
    return f"{name(i)} painted house {i} {COLOURS[i % 4]}."


def inferred(i):
    return {"premise": sentence(i), "hypothesis": f"House {i} is {COLOURS[i % 3]}.", "idx": i, "label": i % 3}


# Row i of a data set, with the columns that the Hub has.
MADE = {
    "sst2": lambda i: {"idx": i, "sentence": f"{sentence(i).lower()} that was {('dull', 'fun')[i % 2]} ", "label": i % 2},
    "sst5": lambda i: {"text": sentence(i), "label": i % 5, "label_text": "neutral"},
    "snli": inferred,
    "mnli": inferred,
    "cb": inferred,
    "rte": lambda i: inferred(i) | {"label": i % 2},
    "trec": lambda i: {"text": f"Who painted house {i} ?", "coarse_label": i % 6, "fine_label": i},
    "boolq": lambda i: {"question": f"is house {i} red", "answer": i % 4 == 0, "passage": sentence(i)},
    "wsc": lambda i: (
        {"text": f"{sentence(i)} It is old.", "span1_index": 3, "span2_index": 5}
        | {"span1_text": f"house {i}", "span2_text": "It", "idx": i, "label": i % 2}
    ),
    "wic": lambda i: {
        "word": "house",
        "sentence1": sentence(i),
        "sentence2": f"They house {name(i)}.",
        "idx": i,
        "label": i % 2,
    },
    "multirc": lambda i: {"paragraph": sentence(i), "question": "Who painted?", "answer": name(i + i % 2), "label": 1 - i % 2},
    "copa": lambda i: (
        {"premise": sentence(i), "choice1": "It looks new.", "choice2": "It rained.", "idx": i}
        | {"question": ("effect", "cause")[i % 2], "label": i % 2}
    ),
    "record": lambda i: (
        {"passage": f"{sentence(i)}\n@highlight\nThe house is new", "query": f"@placeholder owns a brush, {i} times."}
        | {"entities": list(NAMES), "answers": [name(i)]}
    ),
    "squad": lambda i: (
        {"id": str(i), "title": "Houses", "context": sentence(i), "question": "Who painted it?"}
        | {"answers": {"text": [name(i), name(i)], "answer_start": [0, 0]}}
    ),
    "drop": lambda i: (
        {"section_id": "s", "query_id": str(i), "passage": sentence(i), "question": "Which house is it?"}
        | {"answers_spans": {"spans": [str(i), name(i)], "types": ["number", "span"]}}
    ),
}


def words_tokenizer():
    """That of tiny-reviews, with a mask and with every label word as one token."""
    core = json.loads(load_model("tiny-reviews")[1].backend_tokenizer.to_str())
    words = {f"Ġ{word}" for task in METRICS if task.startswith("masked_") for word in load_task(task).words}
    for token in ("<mask>", *sorted(words)):
        core["model"]["vocab"].setdefault(token, len(core["model"]["vocab"]))
    core["model"]["ignore_merges"] = True
    special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    core = Tokenizer.from_str(json.dumps(core))
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>", model_max_length=512, **special)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A folder with a tiny masked model that has random weights, and all label words."""
    folder, tokenizer = tmp_path_factory.mktemp("roberta"), words_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model("roberta")
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


def samples(source, folder):
    """Real rows of a data set where this machine has them."""
    if not SAMPLES or not (Path(SAMPLES) / source.name).is_dir():
        pytest.skip(f"ZOLAB_DATA is not set, or has no folder {source.name}")
    return Path(SAMPLES)


def own_rows(source, folder):
    """A folder with rows of our own."""
    (folder / source.name).mkdir()
    for split, rows in (("train", range(36)), (source.held_out, range(36, 48))):
        lines = "\n".join(json.dumps(MADE[source.name](i)) for i in rows)
        (folder / source.name / f"{split}.jsonl").write_text(lines)
    return folder


@pytest.mark.parametrize("data", [own_rows, samples])
@pytest.mark.parametrize("task", METRICS)
def test_a_papers_task_is_trained_and_reported(task, data, roberta, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(data(load_task(task).source, tmp_path)))
    masked = task.startswith("masked_")
    sizes = {"train": 2, "dev": 1} if masked else {"train": 4, "dev": 3}  # of each class, or together
    model = str(roberta) if masked else "tiny-reviews"
    config = Config(model=model, task=task, steps=2, eval_every=2, batch_size=2, test=5, lr=1e-3, **sizes)
    run = finetune(config, tmp_path / "run", progress=False)
    steps, result = run.record["steps"], run.record["result"]
    assert [step["step"] for step in steps] == [0, 1]
    assert all(math.isfinite(step["loss"]) and step["projected_grads"][0] for step in steps)
    assert [entry["step"] for entry in run.record["evaluations"] if entry["split"] == "dev"] == [0, 2]
    scores, after = run.task.score(run.model, run.tokenizer, run.examples.test), result["test"]["after"]
    assert run.task.metric == METRICS[task]
    assert after["examples"] == len(run.examples.test) == 5
    assert after["metric"] == pytest.approx(scores.metrics[METRICS[task]].mean())
    assert after["loss"] == pytest.approx(scores.loss, rel=1e-5)
    assert result["test"]["before"]["loss"] > 0
