"""A loss of candidates with `Task.loss`, beside plain `model(**batch, labels=...)` over padded rows of the same examples.

Two kinds of prompts, both made of the embedded film reviews: a sentence with SST-2's template, and a passage of three to nine
sentences with BoolQ's. The plain way has one row a candidate. Texts are tokenised before the clock starts, for both. Last, a
MeZO step on `tiny-reviews`, whose many small tensors a step must not waste time on, beside its two forward passes, batch 16;
the number is the median over its tasks. Times are medians measured in turn, A B A B, in one process.
"""

import argparse
import json
import statistics
from functools import partial

import numpy as np
import torch

from benchmarks.step import interleaved
from zolab import MeZO
from zolab.models import load_model
from zolab.records import environment
from zolab.tasks import load_task
from zolab.tasks.reviews import REVIEWS
from zolab.tasks.scoring import token_log_probs


def examples(kind, count, seed=0):
    """Templated examples of a kind of prompt."""
    sentences = [e.prompt.removesuffix(" It was") for e in load_task("rotten_tomatoes").sample(seed, 10 * count, 1, 1).train]
    draw = np.random.RandomState(seed)
    if kind == "sst2":
        rows = [{"sentence": text, "label": int(draw.randint(2))} for text in sentences[:count]]
    else:
        passages = [" ".join(sentences[9 * i : 9 * i + draw.randint(3, 10)]) for i in range(count)]
        rows = [{"passage": p, "question": "is the film worth seeing", "answer": draw.randint(2)} for p in passages]
    return [load_task(kind).template(row) for row in rows]


def padded(tokenizer, chosen):
    """One row a candidate, padded on the right; labels on the tokens of the candidate alone."""
    rows, starts = [], []
    for e in chosen:
        for candidate in e.candidates:
            rows.append(tokenizer(e.prompt + candidate)["input_ids"])
            starts.append(len(tokenizer(e.prompt.rstrip(" "))["input_ids"]))
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    inside = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    option = inside & (torch.arange(width) >= torch.tensor(starts)[:, None])
    return {"input_ids": ids, "attention_mask": inside.long(), "labels": ids.where(option, -100)}


def plain_option_loss(logits, batch, chosen):
    """Cross-entropy over the candidates' mean log-probabilities, from all logits."""
    labels = batch["labels"][:, 1:]
    logs = logits[:, :-1].float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    means = (logs * (labels >= 0)).sum(1) / (labels >= 0).sum(1)
    losses = [
        -s.log_softmax(0)[e.answer] for s, e in zip(means.split([len(e.candidates) for e in chosen]), chosen, strict=True)
    ]
    return torch.stack(losses).mean()


def compare(kind, model, tokenizer, options):
    """Median seconds of both ways on a batch, and the largest difference of the two losses."""
    chosen, task = examples(kind, options.batch), load_task(kind)
    ours, plain = task.encode(tokenizer, chosen), padded(tokenizer, chosen)
    output = model(**plain)
    differences = (
        output.loss + token_log_probs(model, ours).mean(),
        plain_option_loss(output.logits, plain, chosen) - task.loss(model, ours),
    )
    del output
    times = interleaved(options.repeats, ours=lambda: task.loss(model, ours), plain=lambda: model(**plain).loss)
    tokens = {"ours": sum(pack.input_ids.numel() for pack in ours.packs), "plain": plain["input_ids"].numel()}
    return times, tokens, max(abs(float(d)) for d in differences)


def tiny_steps(rounds=30):
    """Step over forwards for each task of `tiny-reviews`."""
    (model, tokenizer), ratios = load_model("tiny-reviews"), {}
    optimizer = MeZO(model.named_parameters(), lr=0.0, eps=1e-3, seed=0)
    for task in (kind() for kind in REVIEWS):
        loss = partial(task.loss, model, task.encode(tokenizer, task.sample(0, test=1).train[:16]))
        times = interleaved(rounds, step=partial(optimizer.step, loss), forwards=lambda loss=loss: (loss(), loss()))
        ratios[task.name] = times["step"] / times["forwards"]
        print(f"  {task.name:16} step {1e3 * times['step']:5.1f} ms   two forwards {1e3 * times['forwards']:5.1f} ms", end="")
        print(f"   {ratios[task.name]:.2f} times")
    return ratios


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=8, help="examples")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    model, tokenizer = load_model(options.model)
    result, largest = {}, 0.0
    print(f"{options.model}, {options.batch} examples of two candidates, float32")
    for kind in ("sst2", "boolq"):
        times, tokens, difference = compare(kind, model, tokenizer, options)
        for way, seconds in times.items():
            print(f"  {kind:6} {way:6} {seconds * 1e3:9.1f} ms   {tokens[way]:6} tokens computed")
        result[f"{kind}_speedup"] = times["plain"] / times["ours"]
        print(f"  {kind:6} {result[f'{kind}_speedup']:.2f} times faster; losses differ by {difference:.1e}")
        largest = max(largest, difference)
    result["largest_loss_difference"] = largest
    print("tiny-reviews, MeZO, batch 16")
    steps = tiny_steps()
    result |= {"tiny_step_over_forwards": statistics.median(steps.values()), "tiny_steps": steps}
    if options.json:
        print(json.dumps({**result, **environment()}))


if __name__ == "__main__":
    main()
