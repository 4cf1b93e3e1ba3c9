"""Masked-LM tasks: LM-BFF's token sequences, label words, k examples a class, and a plain scorer beside ours."""

import json
import os

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from zolab import MeZO
from zolab.models import load_model, tiny_model
from zolab.runs.finetune import Config, finetune
from zolab.tasks import load_task
from zolab.tasks.masked import MaskedTask, dealt

SAMPLES = os.environ.get("ZOLAB_DATA")
NAMES = ["masked_sst2", "masked_sst5", "masked_snli", "masked_mnli", "masked_rte", "masked_trec"]
NLI = {"premise": "A dog runs.", "hypothesis": "It Moves"}
ROWS = {
    "masked_sst2": {"sentence": "fine film ", "label": 1},
    "masked_sst5": {"text": "fine film", "label": 2},
    "masked_snli": NLI | {"label": 1},
    "masked_mnli": NLI | {"label": 2},
    "masked_rte": NLI | {"label": 1},
    "masked_trec": {"text": "How far is it ?", "coarse_label": 5},
}


def words_tokenizer():
    """Bytes, and every label word as one token."""
    words = sorted({word for name in NAMES for word in load_task(name).words})
    tokens = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>", *(f"Ġ{word}" for word in words)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>", model_max_length=512, **special)


@pytest.fixture(scope="module")
def roberta():
    tokenizer = words_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model("roberta")
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for parameter in model.parameters():  # bias and norms too: nothing may cancel
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval(), tokenizer


@pytest.mark.parametrize(
    ("name", "prompt", "words", "answer"),
    [
        ("masked_sst2", "fine film  It was<mask>.", (" terrible", " great"), 1),
        ("masked_sst5", "fine film It was<mask>.", (" terrible", " bad", " okay", " good", " great"), 2),
        ("masked_snli", "A dog runs?<mask>, it Moves", (" Yes", " Maybe", " No"), 1),
        ("masked_mnli", "A dog runs?<mask>, it Moves", (" Yes", " Maybe", " No"), 2),
        ("masked_rte", "A dog runs?<mask>, it Moves", (" Yes", " No"), 1),
        (
            "masked_trec",
            "<mask>: How far is it ?",
            (" Description", " Entity", " Expression", " Human", " Location", " Number"),
            5,
        ),
    ],
)
def test_templates_are_lm_bffs(name, prompt, words, answer):
    example = load_task(name).template(ROWS[name])
    assert (example.prompt, example.candidates, example.answer) == (prompt, words, answer)


def test_trec_classes_are_matched_by_name():
    """The data set counts abbreviation, entity, description, human, location, number."""
    task = load_task("masked_trec")
    examples = [task.template({"text": "?", "coarse_label": label}) for label in range(6)]
    named = [e.candidates[e.answer].strip() for e in examples]
    assert named == ["Expression", "Entity", "Description", "Human", "Location", "Number"]


def plain_loss(model, tokenizer, example):
    """One row through the whole model, written out token by token."""
    ids = [0]
    for piece in example.pieces:
        ids += [tokenizer.mask_token_id] if piece == "<mask>" else tokenizer.encode(piece, add_special_tokens=False)
    logits = model(torch.tensor([[*ids, 2]])).logits[0, ids.index(tokenizer.mask_token_id)]
    words = [tokenizer.convert_tokens_to_ids("Ġ" + word.strip()) for word in example.candidates]
    return -logits[words].log_softmax(0)[example.answer], int(logits[words].argmax()) == example.answer


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_losses_equal_a_plain_scorer(roberta, name):
    model, tokenizer = roberta
    task = load_task(name)
    texts = ("short.", "of middle length.", "the longest of the three, by quite some tokens.", "short.")
    column = "sentence" if "sentence" in ROWS[name] else "text" if "text" in ROWS[name] else "premise"
    examples = [task.template(ROWS[name] | {column: text}) for text in texts]
    expected = [plain_loss(model, tokenizer, e) for e in examples]
    batch = task.encode(tokenizer, examples)
    loss = task.loss(model, batch)
    torch.testing.assert_close(loss, torch.stack([loss for loss, _ in expected]).mean(), rtol=1e-4, atol=1e-5)
    scores = task.score(model, tokenizer, examples, batch_size=3)
    assert scores.loss == pytest.approx(float(loss), abs=1e-5)
    assert scores.metrics["accuracy"].tolist() == [right for _, right in expected]
    assert batch.masked
    distinct = {e.prompt: len(e.pieces) for e in examples}
    assert sum(len(part.places) for part in batch.packs) == len(distinct)  # one row of logits for each text


@pytest.mark.skipif(not SAMPLES, reason="ZOLAB_DATA is not set: real samples of Hub data sets are not on this machine")
@pytest.mark.parametrize("name", ["masked_sst2", "masked_rte", "masked_trec"])
@torch.no_grad()
def test_real_samples_score_as_plainly(roberta, name):
    model, tokenizer = roberta
    task = load_task(name)
    examples = [e for e in task.held_out(0, 20) if len(e.prompt.encode()) + len("<s></s>") < task.max_length][:8]
    assert len(examples) == 8
    expected = [plain_loss(model, tokenizer, e) for e in examples]
    scores = task.score(model, tokenizer, examples)
    assert scores.loss == pytest.approx(float(torch.stack([loss for loss, _ in expected]).mean()), abs=1e-4)
    assert scores.metrics["accuracy"].tolist() == [right for _, right in expected]


def test_logits_are_computed_at_the_masks_alone(roberta):
    model, tokenizer = roberta
    shapes, task = [], load_task("masked_trec")
    batch = task.encode(tokenizer, [task.template(ROWS["masked_trec"] | {"text": text}) for text in "abc"])
    task.loss(model, batch)  # the first time a model is tried out
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    task.loss(model, batch)
    hook.remove()
    assert shapes == [(3, len(tokenizer))]


def test_a_step(roberta):
    model, tokenizer = roberta
    task = load_task("masked_sst2")
    batch = task.encode(tokenizer, [task.template(ROWS["masked_sst2"])])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-3, seed=0)
    assert 0 < optimizer.step(lambda: task.loss(model, batch)) < 10
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def write(folder, name, splits):
    (folder / name).mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def trec(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    rows = [{"text": f"question {n} ?", "coarse_label": n % 6} for n in range(60)]
    write(tmp_path, "trec", {"train": rows, "test": rows[:9]})
    return tmp_path


def test_k_examples_of_each_class(trec):
    task = load_task("masked_trec")
    one, again, other = task.sample(13, 3, 2, 5), task.sample(13, 3, 2, 5), task.sample(21, 3, 2, 5)
    assert one == again
    assert one.train != other.train
    assert one.test == other.test  # drawn with one seed for all
    assert [sorted(e.answer for e in split) for split in one[:2]] == [[c for c in range(6) for _ in range(k)] for k in (3, 2)]
    assert not {e.prompt for e in one.train} & {e.prompt for e in one.dev}
    assert [len(split) for split in task.sample(13, 8, 16, 1000)] == [48, 12, 9]
    with pytest.raises(ValueError, match="no class of more than 16 examples"):
        task.sample(13)
    with pytest.raises(ValueError, match="train must be at least 1"):
        task.sample(13, train=0)


def test_bad_rows(trec):
    task = load_task("masked_trec")
    rows = [{"text": "x", "coarse_label": n} for n in (0, 1, 2, 3, 4)] * 4
    write(trec, "trec", {"train": rows, "test": rows})
    with pytest.raises(ValueError, match=r"train\.jsonl has no rows of coarse_label 5; use data with every class"):
        task.sample(0, 1, 1, 1)
    write(trec, "trec", {"train": [{"text": "x", "label": 0}], "test": rows})
    with pytest.raises(ValueError, match="lacks the column coarse_label"):
        task.sample(0, 1, 1, 1)
    (trec / "trec" / "test.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test\.jsonl"):
        task.held_out()


def test_snli_leaves_out_rows_without_a_label(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOLAB_DATA", str(tmp_path))
    rows = [NLI | {"premise": f"Premise {n}.", "label": n % 4 - 1} for n in range(24)]
    write(tmp_path, "snli", {"train": rows, "validation": rows})
    splits = load_task("masked_snli").sample(13, 2, 4, 1000)
    assert [len(split) for split in splits] == [6, 12, 18]
    assert {e.answer for split in splits for e in split} == {0, 1, 2}
    write(tmp_path, "mnli", {"train": rows, "validation_matched": rows})
    with pytest.raises(ValueError, match=r"has label -1; allowed are \(0, 1, 2\): drop unlabelled rows"):
        load_task("masked_mnli").held_out()


def test_long_texts_are_cut_as_lm_bff_cuts_them(roberta):
    tokenizer = roberta[1]
    task = load_task("masked_mnli")
    example = task.template({"premise": "x" * 300, "hypothesis": "y" * 300, "label": 0})
    ids = task.encode(tokenizer, [example]).packs[0].input_ids[0].tolist()
    assert len(ids) == 256
    assert tokenizer.decode(ids) == "<s>" + "x" * 240 + "?<mask>, " + "y" * 11
    sst5 = load_task("masked_sst5")
    ids = sst5.encode(tokenizer, [sst5.template({"text": "z" * 400, "label": 0})]).packs[0].input_ids[0].tolist()
    assert tokenizer.decode(ids) == "<s>" + "z" * 110 + " It was<mask>.</s>"
    trec = load_task("masked_trec")
    ids = trec.encode(tokenizer, [trec.template({"text": "q" * 400, "coarse_label": 0})]).packs[0].input_ids[0].tolist()
    assert tokenizer.decode(ids) == "<s><mask>: " + "q" * 109 + "</s>"


def test_texts_fit_the_context_that_the_tokenizer_knows(roberta, monkeypatch):
    monkeypatch.setattr(roberta[1], "model_max_length", 64)
    trec = load_task("masked_trec")
    batch = trec.encode(roberta[1], [trec.template({"text": "q" * 400, "coarse_label": 0})])
    assert batch.packs[0].input_ids.shape[1] == 64


@pytest.mark.parametrize(
    ("row", "count"), [({"sentence": "x" * 200, "label": 0}, 0), ({"sentence": "a <mask> in it", "label": 0}, 2)]
)
def test_a_text_needs_its_one_mask(roberta, row, count):
    task = load_task("masked_sst2")
    with pytest.raises(ValueError, match=rf"has {count} masks in 128 tokens, not 1"):
        task.encode(roberta[1], [task.template(row)])


def test_wrong_models_and_tokenizers(roberta):
    task = load_task("masked_sst2")
    examples = [task.template(ROWS["masked_sst2"])]
    batch = task.encode(roberta[1], examples)
    with pytest.raises(ValueError, match="needs a RoBERTa-like masked language model, which LlamaForCausalLM is not"):
        task.loss(tiny_model("llama"), batch)
    with pytest.raises(ValueError, match=r"the label word ' .*' must be one token, and this tokenizer makes"):
        task.encode(load_model("tiny-random-roberta")[1], examples)
    without = words_tokenizer()
    without.mask_token = None
    with pytest.raises(ValueError, match="this tokenizer has no mask token"):
        task.encode(without, examples)
    with pytest.raises(ValueError, match="take no demonstrations"):
        task.demonstrate(examples, 32)
    assert task.demonstrate(examples, 0) == examples


def test_a_subclass_needs_its_pieces():
    with pytest.raises(TypeError, match=r"abstract method '?pieces"):
        MaskedTask()


def test_a_run_on_a_masked_task(trec, roberta):
    for part in roberta:
        part.save_pretrained(trec / "model")
    config = Config(model=str(trec / "model"), task="masked_trec", steps=2, eval_every=2, batch_size=4, train=2, dev=1)
    result = finetune(config, trec / "run", progress=False).record["result"]
    assert result["test"]["after"]["examples"] == 9
    assert result["dev"]["examples"] == 6


def test_the_first_examples_are_of_all_classes():
    """A run evaluates some of its training examples, the first ones."""
    assert dealt([np.array([5, 3, 8]), np.array([1]), np.array([7, 2])]) == [5, 1, 7, 3, 2, 8]
    assert dealt([]) == []
