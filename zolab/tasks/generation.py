"""Tasks answered in free text: trained with the language-model loss on a gold answer, judged by what the model writes."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from zolab.models import context_of
from zolab.tasks.base import Example, Scores, Task, chunks, device_of
from zolab.tasks.scoring import autocasting, check_causal, shorten

MAX_NEW_TOKENS = 50


class Generation(Task):
    """A task whose answer is written greedily until the line ends. A subclass has `judge` besides `source` and `template`."""

    metric = "f1"
    objective = "answer"
    max_length: ClassVar[int] = 2048 - MAX_NEW_TOKENS

    @abstractmethod
    def judge(self, text: str, references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Every metric of a written answer, as fractions; of gold answers, each in its spans, the best counts."""

    @torch.no_grad()
    def score(self, model: PreTrainedModel, tokenizer, examples: Sequence[Example], batch_size: int = 32) -> Scores:
        """Loss of the first gold answer, and every metric of the answer that the model writes."""
        loss, _ = super().score(model, tokenizer, examples, batch_size)
        found: list[dict[str, float]] = [{}] * len(examples)
        for chosen in chunks(examples, batch_size, key=len):  # alike in length: little padding
            with autocasting(self.autocast, device_of(model)):
                written = generate(model, tokenizer, [examples[i].prompt for i in chosen])
            for i, text in zip(chosen, written, strict=True):
                found[i] = self.judge(text, examples[i].references)
        return Scores(loss, {name: np.array([scores[name] for scores in found]) for name in found[0]})

    def blind(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metric of an empty answer to each of these examples."""
        return {"empty answer": float(np.mean([self.judge("", e.references)[self.metric] for e in examples]))}


@torch.no_grad()
def generate(model: PreTrainedModel, tokenizer, prompts: Sequence[str], max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
    """What a model writes after each prompt: the likeliest token each time, until the line or the text ends.

    MeZO stops at the token of a newline. Newer tokenizers also have tokens that end in one, such as ".\\n"; here the line
    ends at any newline, and the text is cut there. A prompt that leaves no room for the answer in the model's context, or in
    the papers' 2,048 tokens, loses tokens from its left, not the first.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        prompts: they are padded on the left and answered together.
        max_new_tokens: tokens written at most.

    Raises:
        ValueError: the model is not causal, or its context is not longer than `max_new_tokens`.
    """
    check_causal(model)
    room = int(min(2048, tokenizer.model_max_length, context_of(model))) - max_new_tokens
    if room < 1:
        raise ValueError(f"the model's context leaves no room for a prompt before {max_new_tokens} new tokens; write fewer.")
    texts = [shorten(ids, room) for ids in tokenizer([p.lstrip().rstrip(" ") for p in prompts], verbose=False)["input_ids"]]
    width, device = max(map(len, texts)), device_of(model)
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=device)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
    written: list[list[int]] = [[] for _ in texts]
    going, cache = set(range(len(texts))), None
    for _ in range(max_new_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        ids, cache = output.logits[:, -1].argmax(-1, keepdim=True), output.past_key_values
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        for i, token in enumerate(ids[:, 0].tolist()):
            if i not in going:
                continue
            written[i].append(token)
            if token == tokenizer.eos_token_id or "\n" in tokenizer.decode([token]):
                going.discard(i)
        if not going:
            break
    return [tokenizer.decode(ids, skip_special_tokens=True).partition("\n")[0].strip() for ids in written]
