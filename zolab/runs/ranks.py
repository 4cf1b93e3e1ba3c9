"""Several processes that make one run: each holds the whole model, and numbers are all that they exchange.

    torchrun --nproc_per_node 2 -m zolab finetune ...
    accelerate launch --num_processes 2 -m zolab finetune ...

Both start processes, the ranks, and tell each its place in the same variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).
Directions are addressed, so that every rank makes the same ones, and a step takes nothing but losses. `--parallel batch` gives
each rank a share of each batch, and a loss is the mean over all shares: in float32 it is within 4e-7 of itself of that in one
process, by rounding alone, and a slope within that over eps. `--parallel directions` gives each rank some of a step's `samples`
on the whole batch, or, where they cannot be shared evenly, some of their sides, so that two ranks take one side each: the same
bits as in one process (on a GPU up to rounding, if that one looks at both sides at once). A stopped run may go on with another
number of ranks.

All ranks compute with the same numbers, in the same order, so that their weights are the same to the bit. Numbers lie in main
memory wherever the model is, so that gloo exchanges them, on GPU machines, too. The first rank alone writes the run's folder
and evaluates, which takes as long as in one process; so an evaluation is what `zolab verify` finds again, to the bit. The
others keep their log in a folder that goes with them, and need no common disk.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from zolab.runs.config import require

TIMEOUT = timedelta(hours=1)
"""How long a rank waits for the others, such as for the first one's evaluation. One that ended is noticed at once."""
LACKING = "this torch was built without torch.distributed: install another build of torch, or start one process."
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass
class Ranks:
    """A process's place among those that make a run; alone by default.

    Args:
        number: of this one, from 0.
        count: how many there are.
        group: of `torch.distributed`, None for all processes.

    Attributes:
        exchanged: bytes of all ranks' numbers together that steps have exchanged.

    Every method but `share` is called by all ranks, in the same order. It raises RuntimeError if another one has ended.
    """

    number: int = 0
    count: int = 1
    group: Any = None
    exchanged: int = 0

    @classmethod
    def joined(cls) -> "Ranks":
        """The ranks that this process was started among, by a launcher's variables or by whoever set up `torch.distributed`.

        Raises:
            ValueError, RuntimeError: a variable is missing, the port is in use, or the others did not come.
        """
        ready = distributed.is_available() and distributed.is_initialized()
        if not ready and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return ALONE
        require(distributed.is_available(), f"several processes were started, and {LACKING}")
        if not ready:
            distributed.init_process_group("gloo", timeout=TIMEOUT)
        by_gloo = distributed.get_backend() == "gloo"
        group = None if by_gloo else distributed.new_group(backend="gloo", timeout=TIMEOUT)
        return cls(distributed.get_rank(), distributed.get_world_size(), group)

    @property
    def first(self) -> bool:
        """Whether this one writes, evaluates and prints."""
        return self.number == 0

    def share(self, items: list[Item]) -> list[Item]:
        """Those of some items that are this rank's."""
        return items[self.number :: self.count]

    def averaging(self, terms: int) -> Callable[[float], float]:
        """What turns a mean over this rank's share into the mean over all shares, as often as it is called.

        Args:
            terms: how many numbers this rank's mean is of; the ranks tell each other once, with the first mean.
        """
        if self.count == 1:
            return float
        known: list[float] = []

        def average(value: float) -> float:
            gathered = self._numbers([value * terms, *([] if known else [float(terms)])])
            known.extend(count for _, *counts in gathered for count in counts)
            return sum(total for total, *_ in gathered) / sum(known)

        return average

    def map(self, measure: Callable[[Item], tuple[float, ...]], items: list[Item], values: int) -> list[tuple[float, ...]]:
        """What a function gives for each item, every rank calling it with its share; NaN where it has no finite value.

        Args:
            measure: the function; its FloatingPointError stands for NaN.
            items: at least as many as there are ranks.
            values: how many numbers it returns.
        """
        mine, places = [], -(-len(items) // self.count)
        for item in self.share(items):
            try:
                mine += measure(item)
            except FloatingPointError:  # all ranks must learn of it, or the others would wait
                mine += [float("nan")] * values
        gathered = self._numbers([*mine, *[0.0] * (places * values - len(mine))])
        return [tuple(gathered[place % self.count][place // self.count * values :][:values]) for place in range(len(items))]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of each rank's numbers, equally many of all; the same bits in each."""
        return [sum(each) for each in zip(*self.gathered(values), strict=True)]

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers of each rank, equally many of all."""
        return self._numbers([float(value) for value in values])

    def all_make(self, make: Callable[[], Made]) -> Made:
        """What every rank makes, since it takes all of them; the first one's, as JSON can tell it."""
        mine = make()
        text = self._texts(json.dumps(mine))[0]
        return mine if self.first else json.loads(text)

    def from_first(self, make: Callable[[], Made]) -> Made:
        """What the first rank makes, as JSON can tell it; the others wait. They raise RuntimeError if it could not."""
        made: list[Made] = []
        with self.agreed():
            made += [make()] if self.first else []
        text = self._texts(json.dumps(made))[0]
        return (made or json.loads(text))[0]

    def check_same(self, mine: Mapping[str, Any]) -> None:
        """Raise ValueError, on every rank, unless all of them have the same.

        Args:
            mine: for each name that the sentence may tell, a value or a digest, as JSON can tell it.
        """
        first, *others = map(json.loads, self._texts(json.dumps(mine)))
        for number, other in enumerate(others, start=1):
            names = ", ".join(name for name in {**first, **other} if first.get(name) != other.get(name))
            message = (
                f"rank {number} differs from rank 0 in {names}: start all ranks with the same command, files and versions."
            )
            require(not names, message)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Around what one rank may refuse: then all of them do, with the sentence of the first that did."""
        if self.count == 1:
            yield
            return
        refused = None
        try:
            yield
        except Exception as error:  # raised again below, when the others know
            refused = error
        mine = "" if refused is None else str(refused) or type(refused).__name__
        sentences = self._texts(mine)
        number = next((number for number, sentence in enumerate(sentences) if sentence), None)
        if number is None:
            return
        if refused is not None and mine == sentences[number]:
            raise refused
        raise RuntimeError(f"rank {number}: {sentences[number]}") from refused

    def _numbers(self, mine: list[float]) -> list[list[float]]:
        """The numbers of each rank, equally many of all."""
        self.exchanged += 8 * len(mine) * self.count
        return [part.tolist() for part in self._gathered(torch.tensor(mine, dtype=torch.float64, device="cpu"))]

    def _texts(self, mine: str) -> list[str]:
        """The text of each rank."""
        content = mine.encode()
        sizes = [int(size) for size in self._gathered(torch.tensor([len(content)], device="cpu"))]
        padded = torch.tensor([*content, *bytes(max(sizes) - len(content))], dtype=torch.uint8, device="cpu")
        parts = self._gathered(padded) if max(sizes) else [padded] * self.count
        return [bytes(part.tolist())[:size].decode() for part, size in zip(parts, sizes, strict=True)]

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        if self.count == 1:
            return [mine]
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        try:
            distributed.all_gather(parts, mine, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"another of the {self.count} ranks ended, or did not answer for {TIMEOUT}: see what it printed. The same "
                "command goes on from what the run has logged."
            ) from error
        return parts


ALONE = Ranks()
