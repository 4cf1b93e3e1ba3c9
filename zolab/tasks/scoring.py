"""Log-probabilities of candidate answers: shared prompts computed once, logits only where a token is scored."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zolab.models import context_of, first_position
from zolab.tasks.packing import Pack, Tokens, pack

# A prompt, the candidates that may follow it, and the index of the right one.
Question = tuple[str, Sequence[str], int]


@dataclass(frozen=True)
class Batch:
    """Tokenised prompts with candidates.

    Candidates share the text up to where they differ; the last token is never fed to the model, so that one-token candidates
    share all of it.

    Args:
        packs: the texts.
        targets: the scored tokens, pack by pack, int64 of shape (scored tokens,).
        rows: where each of them is predicted, an index into `places` of its pack; same shape.
        options: the candidate, numbered through the batch, that each of them belongs to; same shape.
        scored: number of scored tokens of each pack.
        sizes: number of candidates of each example.
        answers: index of the right candidate of each example.
        longest: number of tokens of the longest text.
        masked: for a masked language model instead of a causal one.
    """

    packs: tuple[Pack, ...]
    targets: Tensor
    rows: Tensor
    options: Tensor
    scored: list[int]
    sizes: list[int]
    answers: list[int]
    longest: int
    masked: bool = False

    def to(self, device: torch.device | str) -> "Batch":
        packs = tuple(part.to(device) for part in self.packs)
        moved = {name: getattr(self, name).to(device) for name in ("targets", "rows", "options")}
        return replace(self, packs=packs, **moved)

    @property
    def right(self) -> list[int]:
        """The right candidate of each example, numbered through the batch."""
        return [start + answer for start, answer in zip(accumulate([0, *self.sizes]), self.answers, strict=False)]


def encode(tokenizer, questions: Sequence[Question], max_length: int = 2048) -> Batch:
    """Tokenise questions for a causal model.

    The option is what the full text has more than the prompt without its trailing spaces, counted in tokens, as in MeZO.
    A text longer than `max_length`, or than the tokenizer says its model takes, loses tokens from the left of its prompt;
    its first token stays (ZO Fine-tuner).

    Raises:
        ValueError: a prompt is empty, or a candidate adds no token to it or is itself longer than `max_length`.
    """
    max_length = min(max_length, tokenizer.model_max_length)
    strings = [(prompt.lstrip() + candidate).rstrip(" ") for prompt, candidates, _ in questions for candidate in candidates]
    prompts = [prompt.lstrip().rstrip(" ") for prompt, _, _ in questions]
    encoded = tokenizer(strings + prompts, verbose=False)["input_ids"]  # too long is no news: they are cut below
    full, bare = iter(encoded[: len(strings)]), encoded[len(strings) :]

    texts, places, targets = [], [], []
    for (prompt, candidates, _), prompt_ids in zip(questions, bare, strict=True):
        if not prompt_ids:
            raise ValueError("an empty prompt leaves the first token of its answer unpredicted; give it a text.")
        for candidate in candidates:
            ids = next(full)
            length = len(ids) - len(prompt_ids)
            if not 0 < length < max_length:
                room = f"where 1 to {max_length - 1} fit"
                raise ValueError(
                    f"{candidate!r} adds {length} tokens to {prompt[-40:]!r}, {room}; change the template or model."
                )
            ids = shorten(ids, max_length)
            texts.append(tuple(ids[:-1]))
            places.append(range(len(ids) - length - 1, len(ids) - 1))
            targets.append(ids[-length:])
    return batch_of(texts, places, targets, questions, masked=False)


def shorten(ids: list[int], max_length: int) -> list[int]:
    """At most `max_length` tokens: the first, which may mark the beginning of a text, and the last ones."""
    return ids if len(ids) <= max_length else ids[:1] + ids[len(ids) - max_length + 1 :]


def batch_of(
    texts: Sequence[Tokens],
    places: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    questions: Sequence[Question],
    masked: bool,
) -> Batch:
    """A batch from the text, the places and the target tokens of each candidate of each question."""
    packs, homes = pack(texts, places, causal=not masked)
    scored = sorted(
        (number, row, target, option)
        for option, ((number, rows), tokens) in enumerate(zip(homes, targets, strict=True))
        for row, target in zip(rows, tokens, strict=True)
    )
    numbers, rows, wanted, options = torch.tensor(scored).T.contiguous()
    sizes, answers = [len(candidates) for _, candidates, _ in questions], [answer for _, _, answer in questions]
    longest = max(map(len, texts))
    return Batch(tuple(packs), wanted, rows, options, numbers.bincount().tolist(), sizes, answers, longest, masked)


def token_log_probs(model: PreTrainedModel, batch: Batch, autocast: bool = False) -> Tensor:
    """Log-probability of every scored token, in the order of `batch.targets`; float32 whatever the model computes in.

    Args:
        model: a causal or a RoBERTa-like masked language model of `transformers`, as the batch wants it.
        batch: on the model's device.
        autocast: run the model in bfloat16 where torch deems it safe; weights and log-probabilities keep their precision.

    Raises:
        ValueError: the model is of the other kind, or a text is longer than its context.
    """
    _check_fits(model, batch)
    tokens = []
    scored = zip(batch.packs, batch.rows.split(batch.scored), batch.targets.split(batch.scored), strict=True)
    for part, rows, targets in scored:
        with autocasting(autocast, batch.targets.device):
            logits = (_masked_logits if batch.masked else _causal_logits)(model, part)
        tokens.append(logits.float().log_softmax(-1)[rows, targets])
    return torch.cat(tokens)


def option_log_probs(model: PreTrainedModel, batch: Batch, autocast: bool = False) -> Tensor:
    """Mean log-probability of each candidate's tokens; arguments and errors as for `token_log_probs`."""
    return option_means(token_log_probs(model, batch, autocast), batch)


def option_means(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean of the scored tokens of each candidate."""
    total = tokens.new_zeros(sum(batch.sizes)).index_add(0, batch.options, tokens)
    return total / torch.bincount(batch.options, minlength=sum(batch.sizes))


def _causal_logits(model: PreTrainedModel, part: Pack) -> Tensor:
    ids, positions, mask, places = part

    def choose(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1)[places],)

    head = model.get_output_embeddings()
    assert head is not None  # of a causal model
    chosen = head.register_forward_pre_hook(choose)
    try:
        return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits
    finally:
        chosen.remove()


def _masked_logits(model: PreTrainedModel, part: Pack) -> Tensor:
    ids, positions, mask, places = part
    positions = positions + first_position(model)
    hidden = model.base_model(input_ids=ids, position_ids=positions, attention_mask=mask).last_hidden_state
    return model.lm_head(hidden.flatten(0, 1)[places])


def autocasting(wanted: bool, device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast if wanted, without its cache: that would keep a copy of all weights, stale after they moved."""
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if wanted else nullcontext()


def check_causal(model: PreTrainedModel) -> None:
    if not model.can_generate():
        kind = type(model).__name__
        raise ValueError(f"this task continues a text: it needs a causal language model, which {kind} is not.")


def _check_fits(model: PreTrainedModel, batch: Batch) -> None:
    kind = type(model).__name__
    if not batch.masked:
        check_causal(model)
    elif model.can_generate() or not hasattr(model, "lm_head"):
        raise ValueError(f"this task fills in a mask: it needs a RoBERTa-like masked language model, which {kind} is not.")
    attention = getattr(model.config, "_attn_implementation", "sdpa")
    if attention != "sdpa":  # "eager" would add a mask of zeros and ones to its scores, and be wrong without a word
        raise ValueError(f"texts are packed for torch's attention, and {kind} uses {attention}; load it with sdpa.")
    if batch.longest > (context := context_of(model)):
        raise ValueError(f"a text of {batch.longest} tokens exceeds the {context} of {kind}; encode with max_length={context}.")
    if batch.longest > (window := getattr(model.config, "sliding_window", None) or math.inf):  # the packs' mask has no window
        raise ValueError(
            f"a text of {batch.longest} tokens exceeds the sliding window of {window}; encode with that max_length."
        )
