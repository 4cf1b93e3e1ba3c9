"""Log-probabilities of candidate answers: logits only where a token is scored, little padding, shared prompts once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

# Padding tokens that cost as much as one more pass through the model, which has to read every weight again.
BUCKET_COST = 48


@dataclass(frozen=True)
class Batch:
    """Tokenised prompts with candidates.

    Candidates that differ in their last token only (one-token verbalizers, say) share one row, since the last token is
    never fed to the model. Rows of similar length form a bucket and are padded on the right: under a causal mask nothing
    scored ever sees the padding.

    Args:
        inputs: one int64 tensor of shape (rows, length) for each bucket.
        places: one int64 tensor of shape (2, scored tokens) for each bucket: rows and positions that predict a token.
        targets: the predicted tokens, int64 of shape (scored tokens of all buckets,).
        options: the candidate, numbered through the batch, that each token belongs to; same shape.
        sizes: number of candidates of each example.
        answers: index of the right candidate of each example.
    """

    inputs: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    targets: Tensor
    options: Tensor
    sizes: list[int]
    answers: list[int]

    def to(self, device: torch.device | str) -> "Batch":
        return replace(
            self,
            inputs=tuple(ids.to(device) for ids in self.inputs),
            places=tuple(place.to(device) for place in self.places),
            targets=self.targets.to(device),
            options=self.options.to(device),
        )


def encode(tokenizer, examples: Sequence[tuple[str, Sequence[str], int]], max_length: int = 2048) -> Batch:
    """Tokenise (prompt, candidates, answer) triples.

    The option is what the full text has more than the prompt without its trailing spaces, counted in tokens, as in MeZO.
    A text longer than `max_length` loses tokens from the left of its prompt; its first token stays.

    Raises:
        ValueError: a candidate adds no token to its prompt, or is itself longer than `max_length`.
    """
    texts = [prompt + candidate for prompt, candidates, _ in examples for candidate in candidates]
    prompts = [prompt.rstrip(" ") for prompt, _, _ in examples]
    encoded = tokenizer(texts + prompts)["input_ids"]
    full, bare = encoded[: len(texts)], encoded[len(texts) :]

    row_of: dict[tuple[int, ...], int] = {}
    scored: list[tuple[int, int, int, int]] = []
    option = 0
    for (prompt, candidates, _), prompt_ids in zip(examples, bare, strict=True):
        for candidate in candidates:
            ids = full[option]
            length = len(ids) - len(prompt_ids)
            if not 0 < length < max_length:
                raise ValueError(f"the candidate {candidate!r} adds {length} tokens to {prompt[-40:]!r}; change the template.")
            if len(ids) > max_length:
                ids = ids[:1] + ids[1 - max_length :]
            row = row_of.setdefault(tuple(ids[:-1]), len(row_of))
            scored += [(row, at - 1, ids[at], option) for at in range(len(ids) - length, len(ids))]
            option += 1

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    inputs, places, targets, options = [], [], [], []
    for bucket in _buckets(list(row_of)):
        width = max(len(row) for row in bucket)
        inputs.append(torch.tensor([[*row, *[padding] * (width - len(row))] for row in bucket]))
        row_in_bucket = {row_of[row]: i for i, row in enumerate(bucket)}
        here = [entry for entry in scored if entry[0] in row_in_bucket]
        places.append(torch.tensor([[row_in_bucket[entry[0]] for entry in here], [entry[1] for entry in here]]))
        targets += [entry[2] for entry in here]
        options += [entry[3] for entry in here]
    sizes = [len(candidates) for _, candidates, _ in examples]
    answers = [answer for _, _, answer in examples]
    return Batch(tuple(inputs), tuple(places), torch.tensor(targets), torch.tensor(options), sizes, answers)


def _buckets(rows: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Rows in groups of similar length: a new group starts where padding would cost more than another pass."""
    buckets: list[list[tuple[int, ...]]] = []
    waste = BUCKET_COST
    for row in sorted(rows, key=len, reverse=True):
        waste += len(buckets[-1][0]) - len(row) if buckets else 0
        if waste >= BUCKET_COST:
            buckets.append([])
            waste = 0
        buckets[-1].append(row)
    return buckets


def option_log_probs(model: nn.Module, batch: Batch, per_token: bool = False) -> Tensor:
    """Mean log-probability of each candidate's tokens, float32 whatever the model's dtype.

    Args:
        model: a causal language model of `transformers`.
        batch: from `encode`, on the model's device.
        per_token: return the log-probability of every scored token instead.
    """
    scored = []
    for input_ids, (rows, positions) in zip(batch.inputs, batch.places, strict=True):
        hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        scored.append(hidden[rows, positions])
    logits = model.get_output_embeddings()(torch.cat(scored)).float()
    tokens = logits.log_softmax(-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    if per_token:
        return tokens
    total = tokens.new_zeros(sum(batch.sizes)).index_add(0, batch.options, tokens)
    return total / torch.bincount(batch.options, minlength=sum(batch.sizes))
