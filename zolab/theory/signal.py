"""Signal and noise of each block's gradient with error bars, from the gradients of single examples: what a sigma may gain.

At first almost all of a gradient is one direction, the offset between the answers. So give the task the offsets that
calibration fits (`Task.offsets`): what is measured then is the slow part of fine-tuning, where noise rules and a block's
G_j / V_j counts.

Examples are dealt to groups, whose sums of gradients are kept: each gradient is made once. With g_i the gradient of example i
and S their sum, in each block,

    G = (|S|^2 - sum_i |g_i|^2) / (n (n - 1))        the mean of g_i'g_k over all pairs: the average product of disjoint halves
    V = (sum_i |g_i|^2 - |S|^2 / n) / (n - 1)        trace of the covariance of one example's gradient
    t = (1 / n) sum_i sum_c p_c |a_ic|^2             trace of the Gauss-Newton matrix, a_ic the gradients of log-probabilities

None of them is biased. With balanced batches each group has as many examples of each class, so that what the classes' shares
add to the noise is gone; then G and V are those of such batches, from the groups' sums alone:

    G = the mean of S_k'S_l / (n_k n_l) over all pairs of groups,    V = the mean of |S_k|^2 / n_k, less n_k G

Standard errors are the jackknife's: all is estimated without each group in turn, which takes no further gradients, since the
products of the groups' sums are known. That of G is up to sqrt(2) too wide where a block's gradient is all noise, as the
jackknife's is for a degenerate U-statistic. Some of the groups are a `Signal`, too: one half of the examples gives a sigma, and
the other judges it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from zolab.models.gradients import squares, wide
from zolab.probe.blocks import Blocks, Rule, split, weights_of
from zolab.tasks import Example, Task, by_class
from zolab.tasks.scoring import Batch, option_log_probs, scored_log_probs
from zolab.theory.measure import Recorded, dot, zeros_like
from zolab.theory.terms import StepTerms

# Of one example: its gradient as a factor and tensors, and the Gauss-Newton trace in each tensor.
OneExample = tuple[float, Sequence[Tensor], np.ndarray]


@dataclass(frozen=True)
class Signal(Recorded):
    """What the examples' gradients are among each other, by block.

    Args:
        names, sizes: of the blocks; sizes are d_j.
        counts: examples of each group, shape (groups,).
        lengths: sum of |g_i|^2 over a group, shape (groups, blocks).
        products: S_k'S_l of the groups' sums, shape (groups, groups, blocks).
        curvatures: a group's share of n t, shape (groups, blocks).
        balanced: each group has as many examples of each class.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    products: np.ndarray
    curvatures: np.ndarray
    balanced: bool = False

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.counts)

    def part(self, groups: Sequence[int]) -> "Signal":
        """That of the examples of some groups."""
        k = list(groups)
        fields = {"counts": self.counts[k], "lengths": self.lengths[k], "curvatures": self.curvatures[k]}
        return replace(self, products=self.products[np.ix_(k, k)], **fields)

    def merged(self, grouping: Callable[[str], str]) -> "Signal":
        """That of larger blocks: those that a function gives one name are one."""
        names, place = grouped(self.names, grouping)
        fields = {name: totals(getattr(self, name), place) for name in ("sizes", "lengths", "products", "curvatures")}
        return replace(self, names=names, **fields)

    def halves(self) -> tuple["Signal", "Signal"]:
        """Those of every other group, and of the rest."""
        return self.part(range(0, len(self), 2)), self.part(range(1, len(self), 2))

    @property
    def estimates(self) -> np.ndarray:
        """G_j, V_j and t_j, shape (3, blocks)."""
        n, whole, lengths = self.counts.sum(), self.products.sum((0, 1)), self.lengths.sum(0)
        if self.balanced:
            own, squared = np.einsum("kkb->b", self.products), np.square(self.counts).sum()
            signals = (whole - own) / (n**2 - squared)
            noises = own / n - squared / n * signals
        else:
            signals, noises = (whole - lengths) / (n * (n - 1)), (lengths - whole / n) / (n - 1)
        return np.stack([signals, noises, self.curvatures.sum(0) / n])

    @property
    def without_each(self) -> np.ndarray:
        """The same without each group in turn, shape (groups, 3, blocks)."""
        groups = range(len(self))
        return np.stack([self.part([other for other in groups if other != k]).estimates for k in groups])

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of `estimates`, same shape."""
        return jackknife(self.without_each)

    def terms(self, batch: int) -> StepTerms:
        """What the expected change of a step depends on, without the curvature along the gradient.

        That term is small beside the others where noise rules and the Gauss-Newton matrix has many directions.

        Args:
            batch: examples in a minibatch.
        """
        return terms_of(self.sizes, self.estimates, batch)

    def gain(self, sigma: np.ndarray, batch: int) -> tuple[float, float]:
        """How many times as much a step is expected to gain with these scales as with one for all; and the standard error.

        Each at its own best learning rate, the former with the same examples: a sigma that was chosen by their statistics looks
        better than it is. Judge it by the `Signal` of others.

        Args:
            sigma: of the blocks, in their order.
            batch: examples in a minibatch.
        """
        rests = [gain(terms_of(self.sizes, rest, batch), sigma) for rest in self.without_each]
        return gain(self.terms(batch), sigma), float(jackknife(np.array(rests)))


def grouped(names: Sequence[str], grouping: Callable[[str], str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of groups of blocks, and which one each block is in."""
    groups = [grouping(name) for name in names]
    unique_groups = tuple(dict.fromkeys(groups))
    return unique_groups, np.array([unique_groups.index(group) for group in groups])


def totals(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Sums over the blocks of each group, along the last axis."""
    return np.stack([values[..., place == number].sum(-1) for number in range(place.max() + 1)], -1)


def gain(terms: StepTerms, sigma: np.ndarray) -> float:
    """The expected descent of a step with scales over that with one for all, each at its own best learning rate.

    Negative where sum_j s_j G_j is for one of the two alone: these statistics see a descent along the other one only. NaN where
    they compare nothing.

    Args:
        terms: measured on other examples than sigma was chosen by, or it is too good.
        sigma: of the blocks, in their order.
    """
    ones = np.ones(len(terms.sizes))
    signs = np.sign(terms.gain(sigma)) * np.sign(terms.gain(ones))
    with np.errstate(divide="ignore", invalid="ignore"):  # few examples may see a loss that falls without end, or not at all
        return float(signs * terms.best_change(sigma) / terms.best_change(ones))


def jackknife(rests: np.ndarray) -> np.ndarray:
    """Standard errors of what was estimated without each group in turn, along the first axis; groups are equally large.

    NaN where one of them is infinite: too few examples leave no error bar.
    """
    n = len(rests)
    with np.errstate(invalid="ignore"):
        return np.sqrt((n - 1) / n * np.square(rests - rests.mean(0)).sum(0))


def signal_of(blocks: Blocks, gradients: Iterable[OneExample], groups: int, balanced: bool = False) -> Signal:
    """The statistics of examples' gradients, which are dealt to the groups in turn.

    Args:
        blocks: how the tensors are split.
        gradients: each example's gradient, one after another.
        groups: how many sums are kept.
        balanced: the examples come so that each group gets as many of each class.

    Raises:
        ValueError: there are fewer than 3 groups, of which none could be left out, or fewer examples than groups.
    """
    if groups < 3:
        raise ValueError(f"error bars need at least 3 groups of examples, got {groups}.")
    sums: list[list[Tensor]] = []
    counts, lengths, curvatures = np.zeros(groups), np.zeros((groups, len(blocks))), np.zeros((groups, len(blocks)))
    for i, (factor, tensors, curvature) in enumerate(gradients):
        k = i % groups
        if i < groups:
            sums.append(zeros_like(tensors))
        for mine, tensor in zip(sums[k], tensors, strict=True):
            mine.add_(wide(tensor), alpha=factor)
        counts[k] += 1
        lengths[k] += blocks.totals(factor**2 * squares(tensors))
        curvatures[k] += blocks.totals(curvature)
    if len(sums) < groups:
        raise ValueError(f"{groups} groups need as many examples, got {len(sums)}.")
    products = np.zeros((groups, groups, len(blocks)))
    for k, mine in enumerate(sums):
        for other in range(k + 1):
            pairs = zip(mine, sums[other], strict=True)
            products[k, other] = products[other, k] = blocks.totals([dot(a, b) for a, b in pairs])
    return Signal(blocks.names, np.array(blocks.sizes), counts, lengths, products, curvatures, balanced)


def signal(
    model: PreTrainedModel,
    task: Task,
    tokenizer,
    examples: Sequence[Example],
    groups: int = 8,
    rule: Rule = "tensor",
    seed: int = 0,
    balanced: bool = False,
) -> Signal:
    """Signal and noise of a model's gradients on a task; needs memory for the weights and `groups` + 1 more of their size.

    The Gauss-Newton trace of two candidates is exact. That of more, or of an answer's tokens, is |a|^2 of what is drawn from
    the model's own probabilities, once for each example: its mean is the trace. An answer's loss is the mean over its tokens.

    Args:
        model: in eval mode.
        task: its loss is measured; with `offsets`, so that the slow part of fine-tuning is seen.
        tokenizer: the model's.
        examples: as many as there are groups, or more.
        groups: how many sums are kept; more give error bars that are surer.
        rule: how the weights are split, as in `zolab.probe.blocks.split`.
        seed: of the drawn answers.
        balanced: measure what balanced batches see, on as many examples of each class as the rarest one has, or fewer, so that
            all groups get the same number.

    Raises:
        ValueError: there are too few examples or groups, or of a class.
    """
    if balanced:
        examples = in_turns(examples, groups)
    blocks, params, rng = split(model, rule), weights_of(model), np.random.default_rng(seed)
    one = _of_answer if task.objective == "answer" else _of_options

    def each() -> Iterator[OneExample]:
        for example in examples:
            yield one(model, task, task.encode(tokenizer, [example]).to(params[0].device), params, rng)

    return signal_of(blocks, each(), groups, balanced)


def in_turns(examples: Sequence[Example], groups: int) -> list[Example]:
    """Examples class by class, of each class the same number, a multiple of the groups: dealt in turn, each gets as many.

    Args:
        examples: with the same candidates.
        groups: how many.

    Raises:
        ValueError: a class has fewer examples than there are groups, or the examples have no classes.
    """
    classes = by_class(examples)
    least = min(map(len, classes), default=0)
    if least < groups:
        raise ValueError(f"{groups} groups need as many examples of each class, got {least} of one; give more examples.")
    return [example for members in classes for example in members[: least - least % groups]]


def _of_options(model, task: Task, batch: Batch, params: Sequence[Tensor], rng: np.random.Generator) -> OneExample:
    scores, (answer,) = task.shifted(option_log_probs(model, batch)), batch.answers
    logs = scores.log_softmax(0)
    p = logs.detach().double().exp().cpu().numpy()
    if len(p) == 2:  # both gradients are along that of the difference
        tensors = torch.autograd.grad(scores[1] - scores[0], params)
        return float(p[1]) - answer, tensors, p[0] * p[1] * squares(tensors)
    sampled = torch.autograd.grad(logs[rng.choice(len(p), p=p / p.sum())], params, retain_graph=True)
    return -1.0, torch.autograd.grad(logs[answer], params), squares(sampled)


def _of_answer(model, task: Task, batch: Batch, params: Sequence[Tensor], rng: np.random.Generator) -> OneExample:
    right, sampled = [], []
    for logs, rows, targets in scored_log_probs(model, batch):
        chances = logs.detach()[rows].double().exp().cumsum(-1).cpu().numpy()
        chosen = (chances > rng.random((len(chances), 1)) * chances[:, -1:]).argmax(-1)
        right.append(logs[rows, targets])
        sampled.append(logs[rows, torch.from_numpy(chosen).to(targets.device)])
    tokens = torch.cat(right)
    # Tokens are drawn apart from each other: what mixes two of them is zero on average, and the mean of their traces is left.
    curvature = squares(torch.autograd.grad(torch.cat(sampled).sum() / len(tokens) ** 0.5, params, retain_graph=True))
    return -1.0, torch.autograd.grad(tokens.mean(), params), curvature


def terms_of(sizes: np.ndarray, estimates: np.ndarray, batch: int) -> StepTerms:
    squared, variances, traces = estimates
    return StepTerms(sizes, squared, squared + variances / batch, traces, np.zeros(len(sizes)))
