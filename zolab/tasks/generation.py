"""Tasks answered in free text: trained with the language-model loss on a gold answer, judged by what the model writes."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from zolab.models import context_of
from zolab.tasks.base import Example, Scores, Task, chunks, device_of, dtype_of
from zolab.tasks.fit import check_causal, check_embedded
from zolab.tasks.logits import autocasting
from zolab.tasks.tokens import bare, shorten, tokenize

MAX_NEW_TOKENS = 50
PAPERS_LENGTH = 2048  # tokens of prompt and answer together


class Generation(Task):
    """A task whose answer is written greedily until the line ends. A subclass has `judge` besides `source` and `template`."""

    metric = "f1"
    objective = "answer"
    max_length = PAPERS_LENGTH - MAX_NEW_TOKENS

    @abstractmethod
    def judge(self, text: str, references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Every metric of a written answer, as fractions; of gold answers, each in its spans, the best counts."""

    @torch.no_grad()
    def score(self, model: PreTrainedModel, tokenizer, examples: Sequence[Example], batch_size: int = 32) -> Scores:
        """Loss of the first gold answer, and every metric of the answer that the model writes."""
        loss, _ = super().score(model, tokenizer, examples, batch_size)
        judged: list[dict[str, float]] = [{}] * len(examples)
        for chosen in chunks(examples, batch_size, key=len):  # alike in length: little padding
            with autocasting(self.autocast, device_of(model)):
                written = generate(model, tokenizer, [examples[i].prompt for i in chosen])
            for i, text in zip(chosen, written, strict=True):
                judged[i] = self.judge(text, examples[i].references)
        return Scores(loss, {name: np.array([scores[name] for scores in judged]) for name in judged[0]})

    def are_cut(self, tokenizer, examples: Sequence[Example]) -> list[bool]:
        """For each example, whether it loses tokens: where its answer is scored, or where an answer is written."""
        room = min(PAPERS_LENGTH, tokenizer.model_max_length) - MAX_NEW_TOKENS
        prompts = tokenize(tokenizer, [bare(e.prompt) for e in examples])
        scored = super().are_cut(tokenizer, examples)
        return [cut or len(ids) > room for cut, ids in zip(scored, prompts, strict=True)]

    def blind(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metric of an empty answer to each of these examples."""
        return {"empty answer": float(np.mean([self.judge("", e.references)[self.metric] for e in examples]))}


@torch.no_grad()
def generate(model: PreTrainedModel, tokenizer, prompts: Sequence[str], max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
    """What a model writes after each prompt: the likeliest token each time, until the line or the text ends.

    A text ends at any of the end tokens that the tokenizer or the model's generation settings name.

    MeZO stops at the token of a newline. Newer tokenizers also have tokens that end in one, such as ".\\n"; here the line
    ends at any newline, and the text is cut there. A prompt that leaves no room for the answer in the model's context, or in
    the papers' 2,048 tokens, loses tokens from its left, not the first.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        prompts: they are padded on the left and answered together.
        max_new_tokens: tokens written at most.

    Raises:
        ValueError: the model is not causal, lacks a token, or its context is not longer than `max_new_tokens`.
        FloatingPointError: the model gives a token a score that is no finite number.
    """
    check_causal(model)
    room = int(min(PAPERS_LENGTH, tokenizer.model_max_length, context_of(model))) - max_new_tokens
    if room < 1:
        raise ValueError(f"the model's context leaves no room for a prompt before {max_new_tokens} new tokens; write fewer.")
    texts = [shorten(ids, room) for ids in tokenize(tokenizer, [bare(prompt) for prompt in prompts])]
    check_embedded(model, max(max(ids, default=0) for ids in texts))
    width, device = max(map(len, texts)), device_of(model)
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=device)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
    written: list[list[int]] = [[] for _ in texts]
    going, cache, ends = set(range(len(texts))), None, _end_tokens(model, tokenizer)
    for _ in range(max_new_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        scores = output.logits[:, -1].gather(-1, ids)
        cache, mask = output.past_key_values, torch.cat([mask, torch.ones_like(ids)], 1)
        for i, (score, token) in enumerate(zip(scores[:, 0].tolist(), ids[:, 0].tolist(), strict=True)):
            if i not in going:
                continue
            if not math.isfinite(score):
                raise FloatingPointError(f"the model ({dtype_of(model)}) scores a token with {score}; load it as float32.")
            if token not in ends:
                written[i].append(token)
            if token in ends or "\n" in tokenizer.decode([token]):
                going.discard(i)
        if not going:
            break
    return [tokenizer.decode(ids, skip_special_tokens=True).partition("\n")[0].strip() for ids in written]


def _end_tokens(model: PreTrainedModel, tokenizer) -> set[int]:
    """Instruction-tuned models name several, of which the tokenizer knows one."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(ids if isinstance(ids, list | tuple) else [ids])} - {None}
