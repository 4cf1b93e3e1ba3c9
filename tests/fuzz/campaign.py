"""Loaders by turns, and what they did wrong: each finding once, with the smallest input that shows it."""

import time
from collections import Counter
from pathlib import Path

from .commands import COMMANDS
from .loaders import DIRECT
from .trials import Case, Outcome, Trials

LOADERS = {loader.name: loader for loader in (*DIRECT, *COMMANDS)}


class Campaign:
    """Trials of several loaders.

    Args:
        names: of the loaders.
        seed: of all changes.
        kept: folder for findings.
    """

    def __init__(self, names: list[str], seed: int, kept: Path):
        self.seed, self.kept = seed, kept
        self.trials = {name: Trials(LOADERS[name]) for name in names}
        self.kinds = {name: Counter() for name in names}
        self.findings: dict[tuple[str, str, str], Outcome] = {}

    def run(self, seconds: float, count: int | None = None) -> None:
        """Give the loaders equal times, or try `count` inputs of each."""
        spent, began = dict.fromkeys(self.trials, 0.0), time.monotonic()
        waiting = list(self.trials)
        while waiting and (count is not None or time.monotonic() - began < seconds):
            name = min(waiting, key=spent.__getitem__)
            trials, done, start = self.trials[name], sum(self.kinds[name].values()), time.monotonic()
            size = min(trials.loader.batch, trials.loader.batch if count is None else count - done)
            for outcome in list(trials.run([Case(trials.loader, self.seed, number) for number in range(done, done + size)])):
                self.kinds[name][outcome.kind] += 1
                if not outcome.right:
                    self._keep(trials, outcome)
            spent[name] += time.monotonic() - start
            if count is not None and done + size >= count:
                waiting.remove(name)

    def again(self, number: int) -> int:
        """Try one input of each loader, and print what it does."""
        wrong = 0
        for trials in self.trials.values():
            for outcome in trials.run([Case(trials.loader, self.seed, number)]):
                print(f"{trials.loader.name} {number}: {outcome.kind}: {outcome.message}")
                wrong |= not outcome.right
        return int(wrong)

    def _keep(self, trials: Trials, outcome: Outcome) -> None:
        """Of findings that differ only in their input, the first, with as few changes as show it."""
        name, case = trials.loader.name, outcome.case
        key = (name, outcome.kind, outcome.place)
        if key in self.findings:
            return
        for single in trials.run([Case(case.loader, case.seed, case.number, only) for only in range(3)]):
            if (single.kind, single.place) == (outcome.kind, outcome.place):
                outcome = single
                break
        self.findings[key] = outcome
        folder = self.kept / f"{name}-{case.seed}-{case.number}"
        folder.mkdir(parents=True, exist_ok=True)
        file, content, resealed = outcome.case.changed(trials.base)
        (folder / Path(file).name).write_bytes(content)
        again = f"python -m tests.fuzz --loader {name} --seed {case.seed} --number {case.number}"
        seal = "digests made anew" if resealed else "digests as they were"
        (folder / "finding.txt").write_text(
            f"{outcome.kind}, {seal}\n{again}\n\n{outcome.message}\n", errors="backslashreplace"
        )
        last = outcome.message.strip().splitlines()[-1][:300] if outcome.message.strip() else ""
        print(f"{outcome.kind} in {name} ({outcome.place}; {seal}): {last}\n  {folder}\n  {again}", flush=True)
