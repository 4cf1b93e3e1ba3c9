"""Log-probabilities of candidate answers: no padding, shared prompts once, logits only where a token is scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Tokens packed into one pass. More saves passes, each of which reads every weight; less saves attention between strangers,
# which is computed and masked.
PACK_TOKENS = 512


class Pack(NamedTuple):
    """Texts laid end to end, each seeing only itself.

    Args:
        input_ids: int64 of shape (1, tokens).
        position_ids: int64 of shape (1, tokens), from 0 in each text.
        attention_mask: bool of shape (1, 1, tokens, tokens), or None for a single text, which is plainly causal.
        places: int64 of shape (scored tokens,): positions in the pack that predict a scored token.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    places: Tensor


@dataclass(frozen=True)
class Batch:
    """Tokenised prompts with candidates.

    Candidates that differ in their last token only (one-token verbalizers, say) share one text, since the last token is
    never fed to the model.

    Args:
        packs: the texts.
        targets: the scored tokens, int64 of shape (scored tokens of all packs,).
        options: the candidate, numbered through the batch, that each scored token belongs to; same shape.
        sizes: number of candidates of each example.
        answers: index of the right candidate of each example.
    """

    packs: tuple[Pack, ...]
    targets: Tensor
    options: Tensor
    sizes: list[int]
    answers: list[int]

    def to(self, device: torch.device | str) -> "Batch":
        packs = tuple(Pack(*(part if part is None else part.to(device) for part in pack)) for pack in self.packs)
        return replace(self, packs=packs, targets=self.targets.to(device), options=self.options.to(device))


def encode(tokenizer, examples: Sequence[tuple[str, Sequence[str], int]], max_length: int = 2048) -> Batch:
    """Tokenise (prompt, candidates, answer) triples.

    The option is what the full text has more than the prompt without its trailing spaces, counted in tokens, as in MeZO.
    A text longer than `max_length` loses tokens from the left of its prompt; its first token stays.

    Raises:
        ValueError: a candidate adds no token to its prompt, or is itself longer than `max_length`.
    """
    strings = [prompt + candidate for prompt, candidates, _ in examples for candidate in candidates]
    prompts = [prompt.rstrip(" ") for prompt, _, _ in examples]
    encoded = tokenizer(strings + prompts)["input_ids"]
    full, bare = encoded[: len(strings)], encoded[len(strings) :]

    scored_in: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    option = 0
    for (prompt, candidates, _), prompt_ids in zip(examples, bare, strict=True):
        for candidate in candidates:
            ids = full[option]
            length = len(ids) - len(prompt_ids)
            if not 0 < length < max_length:
                raise ValueError(f"the candidate {candidate!r} adds {length} tokens to {prompt[-40:]!r}; change the template.")
            if len(ids) > max_length:
                ids = ids[:1] + ids[1 - max_length :]
            scored = scored_in.setdefault(tuple(ids[:-1]), [])
            scored += [(at - 1, ids[at], option) for at in range(len(ids) - length, len(ids))]
            option += 1

    groups = _groups(list(scored_in))
    targets, options = zip(*((t, o) for group in groups for text in group for _, t, o in scored_in[text]), strict=True)
    sizes = [len(candidates) for _, candidates, _ in examples]
    answers = [answer for _, _, answer in examples]
    packs = tuple(_pack(group, [[at for at, _, _ in scored_in[text]] for text in group]) for group in groups)
    return Batch(packs, torch.tensor(targets), torch.tensor(options), sizes, answers)


def _groups(texts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Texts in groups of at most PACK_TOKENS tokens; a longer text is alone."""
    groups: list[list[tuple[int, ...]]] = []
    room = 0
    for text in sorted(texts, key=len):
        if len(text) > room:
            groups.append([])
            room = PACK_TOKENS
        groups[-1].append(text)
        room -= len(text)
    return groups


def _pack(texts: list[tuple[int, ...]], places: list[list[int]]) -> Pack:
    lengths = torch.tensor([len(text) for text in texts])
    starts = (lengths.cumsum(0) - lengths).tolist()
    owner = torch.arange(len(texts)).repeat_interleave(lengths)
    causal = (owner[:, None] == owner[None, :]).tril()
    return Pack(
        torch.tensor([[token for text in texts for token in text]]),
        torch.cat([torch.arange(length) for length in lengths])[None],
        causal[None, None] if len(texts) > 1 else None,
        torch.tensor([start + at for start, here in zip(starts, places, strict=True) for at in here]),
    )


def option_log_probs(model: nn.Module, batch: Batch, per_token: bool = False) -> Tensor:
    """Mean log-probability of each candidate's tokens, float32 whatever the model's dtype.

    Args:
        model: a causal language model of `transformers`.
        batch: from `encode`, on the model's device.
        per_token: return the log-probability of every scored token instead.
    """
    scored = []
    for ids, positions, mask, places in batch.packs:
        output = model.base_model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
        scored.append(output.last_hidden_state[0, places])
    logits = model.get_output_embeddings()(torch.cat(scored)).float()
    tokens = logits.log_softmax(-1).gather(-1, batch.targets[:, None]).squeeze(-1)
    if per_token:
        return tokens
    total = tokens.new_zeros(sum(batch.sizes)).index_add(0, batch.options, tokens)
    return total / torch.bincount(batch.options, minlength=sum(batch.sizes))
