"""Log-probabilities of candidate answers: shared prompts computed once, logits only where a token is scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zolab.tasks.fit import check_fits
from zolab.tasks.logits import autocasting, causal_logits, masked_logits
from zolab.tasks.packing import Pack, Tokens, pack
from zolab.tasks.tokens import bare, joined, shorten, tokenize

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
        largest: number of the token with the highest one.
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
    largest: int
    masked: bool = False

    def to(self, device: torch.device | str) -> "Batch":
        packs = tuple(part.to(device) for part in self.packs)
        moved = {name: getattr(self, name).to(device) for name in ("targets", "rows", "options")}
        return replace(self, packs=packs, **moved)

    @property
    def right(self) -> list[int]:
        """The right candidate of each example, numbered through the batch."""
        return [start + answer for start, answer in zip(accumulate([0, *self.sizes]), self.answers, strict=False)]


def encode(tokenizer, questions: Sequence[Question], max_length: int = 2048, apart: bool = False) -> Batch:
    """Tokenise questions for a causal model.

    The option is what the full text has more than the prompt without its trailing spaces, counted in tokens, as in MeZO.
    A text longer than `max_length`, or than the tokenizer says its model takes, loses tokens from the left of its prompt;
    its first token stays (ZO Fine-tuner). With `apart`, no row of a pack holds texts of two questions.

    Raises:
        ValueError: a prompt is empty, or a candidate adds no token to it, is itself longer than `max_length`, or melts with
            the end of the prompt into other tokens, of which a part only would be scored.
    """
    max_length = min(max_length, tokenizer.model_max_length)
    strings = [joined(prompt, candidate) for prompt, candidates, _ in questions for candidate in candidates]
    encoded = tokenize(tokenizer, [*strings, *(bare(prompt) for prompt, _, _ in questions)])
    full, begun = iter(encoded[: len(strings)]), encoded[len(strings) :]

    texts, places, targets = [], [], []
    for (prompt, candidates, _), prompt_ids in zip(questions, begun, strict=True):
        if not prompt_ids:
            raise ValueError("an empty prompt leaves the first token of its answer unpredicted; give it a text.")
        for candidate in candidates:
            ids = next(full)
            length, met = len(ids) - len(prompt_ids), f"{candidate[:40]!r} after {prompt[-40:]!r}"
            if not 0 < length < max_length:
                raise ValueError(f"{met} adds {length} tokens, where 1 to {max_length - 1} fit; change the template or model.")
            if ids[: len(prompt_ids)] != prompt_ids:
                raise ValueError(f"{met} shares a token with it; let the answer begin with a space, or the prompt end a line.")
            ids = shorten(ids, max_length)
            texts.append(tuple(ids[:-1]))
            places.append(range(len(ids) - length - 1, len(ids) - 1))
            targets.append(ids[-length:])
    return batch_of(texts, places, targets, questions, masked=False, apart=apart)


def batch_of(
    texts: Sequence[Tokens],
    places: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    questions: Sequence[Question],
    masked: bool,
    apart: bool = False,
) -> Batch:
    """A batch from the text, the places and the target tokens of each candidate of each question."""
    owners = [i for i, (_, candidates, _) in enumerate(questions) for _ in candidates]
    packs, homes = pack(texts, places, causal=not masked, examples=owners if apart else None)
    scored = sorted(
        (number, row, target, option)
        for option, ((number, rows), tokens) in enumerate(zip(homes, targets, strict=True))
        for row, target in zip(rows, tokens, strict=True)
    )
    numbers, rows, target_tokens, options = torch.tensor(scored).T.contiguous()
    sizes, answers = [len(candidates) for _, candidates, _ in questions], [answer for _, _, answer in questions]
    longest, largest = max(map(len, texts)), max(map(max, (*texts, *targets)))
    counts = numbers.bincount().tolist()
    return Batch(tuple(packs), target_tokens, rows, options, counts, sizes, answers, longest, largest, masked)


def token_log_probs(model: PreTrainedModel, batch: Batch, autocast: bool = False) -> Tensor:
    """Log-probability of every scored token, in the order of `batch.targets`; float32 whatever the model computes in.

    Args:
        model: a causal or a RoBERTa-like masked language model of `transformers`, as the batch wants it.
        batch: on the model's device.
        autocast: run the model in bfloat16 where torch deems it safe; weights and log-probabilities keep their precision.

    Raises:
        ValueError: the model is of the other kind, lacks a token, has a shorter context, or does not keep packed texts apart.
    """
    return torch.cat([logs[rows, targets] for logs, rows, targets in scored_log_probs(model, batch, autocast)])


def scored_log_probs(model: PreTrainedModel, batch: Batch, autocast: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each pack the log-probabilities of all tokens at its places, float32; the row of each scored token; and that token.

    Arguments and errors are those of `token_log_probs`.
    """
    check_fits(model, batch.longest, batch.largest, batch.masked)
    scored = zip(batch.packs, batch.rows.split(batch.scored), batch.targets.split(batch.scored), strict=True)
    for part, rows, targets in scored:
        with autocasting(autocast, batch.targets.device):
            logits = (masked_logits if batch.masked else causal_logits)(model, part)
        yield logits.float().log_softmax(-1), rows, targets


def option_log_probs(model: PreTrainedModel, batch: Batch, autocast: bool = False) -> Tensor:
    """Mean log-probability of each candidate's tokens; arguments and errors as for `token_log_probs`."""
    return option_means(token_log_probs(model, batch, autocast), batch)


def option_means(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean of the scored tokens of each candidate."""
    total = tokens.new_zeros(sum(batch.sizes)).index_add(0, batch.options, tokens)
    return total / torch.bincount(batch.options, minlength=sum(batch.sizes))
