"""What the papers' whole tables cost on a cluster: hours of GPUs, days on several of them, and what keeps more from helping.

Runs are independent of each other, but for a method's reported runs, which wait for its search of rates: here all searches come
first. Runs are dealt out the longest first, each to the GPUs that are free first. A run of more than one card's memory takes as
many cards as hold it, one working after another (`device_map`), so that it takes no less time.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zolab.studies.cost import Cost, costs
from zolab.studies.expected import CARD, SHAPES, TOKENS
from zolab.studies.plan import Plan, load_plan
from zolab.studies.reading import read_yaml
from zolab.studies.sections import Section, table_of

GPUS = (1, 8, 64)
SHARED = 8
"""GPUs that share the batches of one run."""


@dataclass(frozen=True)
class Run:
    """Runs of a plan that cost the same.

    Args:
        searched: how many of them search a rate; the others are reported, and wait for these.
        reported: how many.
        cost: of each.
    """

    searched: int
    reported: int
    cost: Cost

    @property
    def hours(self) -> float:
        """Of one run."""
        return (self.cost.seconds or 0.0) / 3600

    @property
    def hours_shared(self) -> float:
        """Of one run whose batches so many GPUs share, each at least an example: their exchange takes nothing."""
        alone = (self.cost.alone or 0.0) / 3600
        return alone + (self.hours - alone) / min(SHARED, self.cost.batch)

    @property
    def cards(self) -> int:
        """GPUs that hold one run."""
        return self.cost.cards


def paper_grids(folder: Path) -> list[tuple[Plan, list[Run]]]:
    """The plans of a folder that repeat a paper's tables on its own models, with their runs, in the order of their names."""
    # Other plans may rest on what a study before them left, which need not be here.
    plans = [load_plan(path) for path in sorted(folder.glob("*.yaml")) if read_yaml(path).get("paper")]
    return [(plan, runs_of(plan)) for plan in plans if _is_expected(plan)]


def _is_expected(plan: Plan) -> bool:
    """Whether all models and tasks of a plan are the papers', whose runs are not timed but predicted."""
    settings = [{**plan.base, **own} for own in plan.tasks.values()]
    return all(own.get("model") in SHAPES and own.get("task") in TOKENS for own in settings)


def runs_of(plan: Plan) -> list[Run]:
    """The runs of a plan of the papers' models; if a search may go on past its edges, at most."""
    seeds = len(plan.seeds)
    return [Run(cost.cells[1] - seeds, seeds, cost) for cost in costs(plan)]


def days(runs: Iterable[Run], gpus: int) -> float | None:
    """Days until all runs are done on so many GPUs; None if one run needs more of them."""
    runs = list(runs)
    if any(run.cards > gpus for run in runs):
        return None
    searches = [(run.hours, run.cards) for run in runs for _ in range(run.searched)]
    reports = [(run.hours, run.cards) for run in runs for _ in range(run.reported)]
    return (_hours(searches, gpus) + _hours(reports, gpus)) / 24


def _hours(jobs: Sequence[tuple[float, int]], gpus: int) -> float:
    """Until jobs of so many hours and GPUs each are done, the longest first."""
    free = [0.0] * gpus
    for hours, cards in sorted(jobs, reverse=True):
        end = max(heapq.heappop(free) for _ in range(cards)) + hours
        for _ in range(cards):
            heapq.heappush(free, end)
    return max(free)


def grids_section(grids: Sequence[tuple[Plan, list[Run]]]) -> Section:
    """The section of RESULTS.md."""
    every = [run for _, runs in grids for run in runs]
    named = [(plan.about.removesuffix(" "), runs) for plan, runs in grids]
    head = ["plan", "runs", "hours of an H100", "days on 1", *(f"on {gpus}" for gpus in GPUS[1:])]
    head += ["longest run, hours", f"its batches on {SHARED}", "most memory, GB"]
    rows = [_row(name, runs) for name, runs in [*named, ("all", every)]]
    return "What the papers' whole tables cost", [*_about(), "", *table_of(head, rows), "", *_limits(every)]


def _row(name: str, runs: Sequence[Run]) -> list[str]:
    count, hours = sum(run.searched + run.reported for run in runs), _total(runs)
    longest = max(runs, key=lambda run: run.hours)
    cells = [name, f"{count:,}", f"{hours:,.0f}"]
    cells += [_days(runs, gpus) for gpus in GPUS]
    most = max(run.cost.memory or 0.0 for run in runs)
    return [*cells, f"{longest.hours:,.1f}", f"{longest.hours_shared:,.1f}", f"{most / 1e9:,.0f}"]


def _days(runs: Sequence[Run], gpus: int) -> str:
    fitting = [run for run in runs if run.cards <= gpus]
    left = sum(run.searched + run.reported for run in runs if run.cards > gpus)
    return f"{days(fitting, gpus):,.1f}" + (f" without {left}" if left else "")


def _total(runs: Iterable[Run]) -> float:
    """Hours of GPUs."""
    return sum((run.searched + run.reported) * run.hours * run.cards for run in runs)


def _about() -> list[str]:
    text = "Predicted from steps that were measured on one H100 (`zolab/studies/expected.py`; half or twice as much is what to "
    text += "expect of it), as `zolab study` prints with `--dry_run` for each plan of `notebooks/plans/`. Runs that need more "
    text += "cards than there are, are left out. AdaMeZO's plans stop a run early, so that theirs are at most; meta-training "
    text += "is not counted. No run was made on several GPUs."
    return [text]


def _limits(runs: Sequence[Run]) -> list[str]:
    """Where the limits are, from the runs themselves."""
    longest = max(runs, key=lambda run: run.hours)
    searched, reported = (
        max((run.hours for run in runs if getattr(run, kind)), default=0.0) for kind in ("searched", "reported")
    )
    large = [run for run in runs if run.cards > 1]
    count = sum(run.searched + run.reported for run in large)
    share = sum((run.searched + run.reported) * (run.cost.alone or 0.0) for run in runs)
    share /= sum((run.searched + run.reported) * (run.cost.seconds or 0.0) for run in runs)
    most = max(run.cards for run in runs)
    methods = dict.fromkeys(run.cost.method for run in runs)
    slowest = max(methods, key=lambda name: _total(run for run in runs if run.cost.method == name))
    part = _total(run for run in runs if run.cost.method == slowest) / _total(runs)
    return [
        f"- **Time**: the longest run, {longest.cost.method} on {longest.cost.task}, takes {longest.hours:,.0f} hours. With a "
        f"card for each run, all of it takes at least {(searched + reported) / 24:.1f} days: the longest search, then the "
        "longest reported run.",
        f"- **Methods**: {slowest} takes {100 * part:.0f} % of all hours, for its grid of settings and its slow step.",
        "- **One run on several cards**: `torchrun` shares a batch of 16 among up to 16 cards (`--parallel batch`), but "
        f"updates and evaluations, {100 * share:.0f} % of all hours, stay as they are. Of one direction a step two cards can "
        "take a side each (`--parallel directions`), and steps follow each other.",
        f"- **Memory**: {count:,} runs need more than the {CARD} GB of one card, up to {most} cards. First-order methods can "
        "be shared by FSDP2 (`--shard`); zeroth-order ones need `device_map`, where one card works at a time, or a larger "
        "card.",
    ]
