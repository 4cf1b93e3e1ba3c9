"""A transformer small enough for its whole Hessian: it reads film reviews letter by letter, and predicts the next one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from zolab.tasks import load_task
from zolab.theory.exact import Objective

LETTERS = "_abcdefghijklmnopqrstuvwxyz"
WIDTH, BATCH = 24, 32


def letters_model(seed: int = 0, steps: int = 400, lr: float = 1e-2, rows: int = 32) -> Objective:
    """A two-layer LLaMA of 1,544 weights, trained with Adam, in float64; its loss on rows that it was not trained on.

    Args:
        seed: of the weights and of the order of the rows.
        steps: of Adam, with batches of 32 rows.
        lr: Adam's learning rate.
        rows: rows of 24 letters behind the loss, an example each.
    """
    text = letter_rows()
    train, held_out = text[rows:], text[:rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config())
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        chosen = torch.randint(len(train), (BATCH,), generator=generator)
        adam.zero_grad()
        letter_losses(model, train[chosen]).mean().backward()
        adam.step()
    model.zero_grad()
    return Objective(model.double().eval(), lambda m: letter_losses(m, held_out))


def letter_rows() -> Tensor:
    """The embedded reviews as rows of 24 letters, shape (rows, 24): a to z are 1 to 26, all else is 0."""
    text = " ".join(example.prompt for example in load_task("rotten_tomatoes").sample(0).train).lower()
    ids = torch.tensor([max(LETTERS.find(letter), 0) for letter in text])
    return ids[: len(ids) // WIDTH * WIDTH].view(-1, WIDTH)


def letter_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each row's next letters, shape (rows,), in nats."""
    # Mask and positions are given: those that the model makes for itself cannot be vectorised over weights.
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    places = torch.arange(ids.shape[1])[None]
    logits = model(input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def _config() -> LlamaConfig:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaConfig(vocab_size=len(LETTERS) + 1, max_position_embeddings=64, tie_word_embeddings=True, **sizes, **heads)
