"""What a study's record says, in numbers and in sentences: the same functions for every study, notebook and table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.statistics import Estimate, Ratio, Runs, difference, geometric_ratio, holm, log_mean, mean_difference

ERROR = 0.05
"""Rate of wrong decisions that Holm's correction keeps to, over all tasks of a comparison."""

LINE = 104
"""Characters in a line that a notebook shows without breaking it, in a window of 1280 pixels."""


def decided(gap: Estimate, adjusted: float) -> str:
    """lower or higher, of a difference or of how many runs diverged, or undecided.

    Args:
        gap: the difference.
        adjusted: its p, adjusted for all that is judged with it.
    """
    if not adjusted < ERROR:
        return "undecided"
    return {"≥": "higher", "≤": "lower"}.get(gap.bound, gap.word)


@dataclass(frozen=True)
class Beside:
    """A method beside another one on one task; all of it paired by seed.

    Args:
        task: its name.
        forwards: forward passes to the other's mean final dev loss, over the other's: ratio of medians.
        reached: how many runs of both got there.
        final: final dev loss minus the other's.
        curve: mean of the loss curve over log forward passes, minus the other's.
        metric: test metric minus the other's, a fraction; a run that diverged has nothing right.
        adjusted: p of `final`, adjusted by Holm for all tasks of the comparison.
    """

    task: str
    forwards: Estimate
    reached: tuple[int, ...]
    final: Estimate
    curve: Estimate
    metric: Estimate
    adjusted: float

    @property
    def word(self) -> str:
        """lower or higher, of the final loss or of how many runs diverged, where that holds after Holm's correction."""
        return decided(self.final, self.adjusted)


def beside(record: Record, method: str, base: str = BASE, family: Sequence[str] = ()) -> list[Beside]:
    """A method beside another one on every task that both ran on.

    Args:
        record: of a study.
        method, base: names of methods.
        family: further methods whose comparisons with the base are judged together with these, by Holm's correction.

    Raises:
        ValueError: there is no such task.
    """
    finals = {
        (name, task): difference(ours.final, theirs.final)
        for name in dict.fromkeys((method, *family))
        for task, (ours, theirs) in _pairs(record, name, base).items()
    }
    adjusted = dict(zip(finals, holm([final.p for final in finals.values()]), strict=True))
    rows = []
    for task, (ours, theirs) in _pairs(record, method, base).items():
        times, key = Ratio(ours, theirs), (method, task)
        curve = difference(log_mean(ours), log_mean(theirs))
        metric = difference(np.nan_to_num(ours.metrics), np.nan_to_num(theirs.metrics))
        rows.append(Beside(task, times.estimate(), times.reached, finals[key], curve, metric, adjusted[key]))
    return rows


@dataclass(frozen=True)
class Overall:
    """A method beside another one over all tasks that both ran on.

    Args:
        tasks, seeds: how many; of seeds, a task.
        forwards: geometric mean over tasks of the ratios of forward passes; with the t interval over tasks.
        final: mean over tasks of the difference of final dev losses; the interval likewise.
        without: lowest and highest geometric mean with one task left out.
        wins: tasks with a strictly lower mean final loss.
        lower, higher: tasks where that is decided after Holm's correction.
    """

    tasks: int
    seeds: int
    forwards: Estimate
    final: Estimate
    without: tuple[float, float]
    wins: int
    lower: list[str]
    higher: list[str]


def overall(record: Record, method: str, base: str = BASE, family: Sequence[str] = ()) -> Overall:
    """Sum up `beside`; arguments and errors as there."""
    pairs, rows = list(_pairs(record, method, base).values()), beside(record, method, base, family)
    ratios = [Ratio(*pair) for pair in pairs]
    rests = [ratios[:i] + ratios[i + 1 :] for i in range(len(ratios))] if len(ratios) > 1 else [ratios]
    means = [geometric_ratio(rest).value for rest in rests]
    by_word = {word: [row.task for row in rows if row.word == word] for word in ("lower", "higher")}
    wins = sum(row.final.bound == "≤" or (not row.final.bound and row.final.value < 0) for row in rows)
    forwards = geometric_ratio(ratios) if len(rows) > 1 else rows[0].forwards
    final = mean_difference([(ours.final, theirs.final) for ours, theirs in pairs]) if len(rows) > 1 else rows[0].final
    return Overall(len(rows), min(r.n for r in ratios), forwards, final, (min(means), max(means)), wins, *by_word.values())


def verdict(record: Record, method: str, base: str = BASE, family: Sequence[str] = ()) -> list[str]:
    """What a record says about a method beside another one, in sentences; arguments and errors as `beside`."""
    summary = overall(record, method, base, family)
    count = _comparisons(record, method, base, family)
    several = f"{summary.tasks} tasks" if summary.tasks > 1 else "one task"
    sentences = [
        f"{method} takes {summary.forwards.text()} times {base}'s forward passes to {base}'s mean final loss "
        f"({several}, {summary.seeds} seeds, 95 % interval): {_of_ratio(summary.forwards)}"
        if summary.forwards.bound != "–"
        else f"forward passes cannot be compared ({several}, {summary.seeds} seeds): {base}'s mean final loss lies above that "
        f"before training, or neither {method} nor {base} reaches it as a median of three evaluations"
    ]
    if summary.tasks > 1:
        sentences.append(f"with one task left out, between {summary.without[0]:.2f} and {summary.without[1]:.2f} times")
    final = f"at equal forward passes its final loss differs by {summary.final.text(3, sign=True)} nats"
    return [*sentences, f"{final}; {_decisions(summary, count)}", *at_edges(record, (method, base))]


def together(record: Record, method: str, family: Sequence[str], base: str = BASE) -> str:
    """On which tasks a method's final loss is decidedly lower or higher than another's, judged with further methods beside it.

    Args:
        record: of a study.
        method, base: names of methods.
        family: the further ones.
    """
    return _decisions(overall(record, method, base, family), _comparisons(record, method, base, family))


def _comparisons(record: Record, method: str, base: str, family: Sequence[str]) -> int:
    """How many are judged together."""
    return sum(len(_pairs(record, name, base)) for name in dict.fromkeys((method, *family)))


def _decisions(summary: Overall, count: int) -> str:
    return (
        f"it is strictly lower on {summary.wins} of {summary.tasks}, and by Holm's correction for {count} "
        f"comparison{'s' * (count > 1)} decidedly lower on {_named(summary.lower)}, higher on {_named(summary.higher)}"
    )


def at_edges(record: Record, methods: Sequence[str]) -> list[str]:
    """A sentence for each of the methods whose best rate lies at the edge of its search on some task: others may be better."""
    ran = {name: [task for task in record.tasks if name in record.methods(task)] for name in methods}
    edges = {name: [task for task in tasks if record.search(task, name)["edge"]] for name, tasks in ran.items()}
    return [
        f"the best rate of {name} lies at the edge of its grid on {', '.join(tasks)}" for name, tasks in edges.items() if tasks
    ]


def searched_on_reported(record: Record) -> list[int]:
    """Reported seeds on which rates were searched; none, but in records older than the rule that forbids it."""
    searched = set(record.plan["search"]["seeds"])
    for methods in record.content["result"]["search"].values():
        searched |= {seed for search in methods.values() for tried in search["rounds"] for seed in tried["seeds"]}
    return sorted(searched & set(record.plan["seeds"]))


def _first_column(names: Sequence[str]) -> int:
    """Characters that the names of methods take in a text table."""
    return max(15, *(len(name) + 1 for name in names))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], column: int) -> str:
    """A text table; columns that do not fit beside the others in the width of a notebook stand below them."""
    first = _first_column([row[0] for row in rows])
    fit = max(1, (LINE - first) // column)
    parts = []
    for start in range(1, len(head), fit):
        lines = (
            f"{row[0]:{first}}" + "".join(f"{cell:>{column}}" for cell in row[start : start + fit]) for row in (head, *rows)
        )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def final_table(record: Record, key: str = "loss", methods: Sequence[str] | None = None) -> str:
    """A text table, methods by tasks: mean ± standard deviation over the seeds of the final dev loss or the test metric (%).

    Args:
        record: of a study.
        key: "loss" or "metric".
        methods: those that are shown; all by default.
    """
    tasks, factor, digits = record.tasks, 100 if key == "metric" else 1, 1 if key == "metric" else 3
    names = list(methods or record.methods())
    rows = []
    for name in names:
        cells = []
        for task in tasks:
            if not record.cells(task, name):
                cells.append("–")
                continue
            runs = record.runs(task, name)
            if key == "loss" and not runs.kept:
                cells.append("not kept")
                continue
            values = factor * (np.nan_to_num(runs.metrics) if key == "metric" else runs.final)
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            mark = "*" if record.search(task, name)["edge"] else ""
            cells.append(f"{values.mean():.{digits}f}{spread}{mark}" if np.isfinite(values).all() else f"diverged{mark}")
        rows.append([name, *cells])
    return _table([key, *tasks], rows, 16)


def beside_table(record: Record, methods: Sequence[str] | None = None, base: str = BASE) -> str:
    """A text table, a row for each method: its forward passes over those of the base method, task by task and over all."""
    tasks, names = record.tasks, [name for name in methods or record.methods() if name != base]
    table = []
    for name in names:
        rows = {row.task: row.forwards.text() for row in beside(record, name, base)}
        table.append([name, *(rows.get(task, "–") for task in tasks), overall(record, name, base).forwards.text()])
    return _table(["forward passes", *tasks, "all tasks"], table, 22)


LEARNED = {
    **{"auc": "AUC", "calibrated_accuracy": "accuracy, offset fitted", "accuracy": "accuracy, plain"},
    "calibrated_loss": "loss, offset fitted",
}
"""What is told of the test examples before and after runs of tasks with classes; no offset changes the AUC."""
LEARNED_HEAD = ["task", "method", *LEARNED.values(), "gain of AUC"]


def learned(record: Record, task: str, method: str, key: str = "auc") -> Estimate | None:
    """What a method's runs add to a number of the judgement of their test examples, paired by seed; None without such runs.

    Args:
        record: of a study.
        task, method: names in it.
        key: of `zolab.tasks.judgement.Judgement`.
    """
    before, after = record.judged(task, method, key)
    return difference(after, before) if len(before) and np.isfinite(before).any() else None


def learned_rows(record: Record) -> list[list[str]]:
    """A row for each task with classes and each method: before and after, and the gain of AUC with its interval."""
    rows = []
    for task in record.tasks:
        for name in record.methods(task):
            gain = learned(record, task, name)
            if gain is None:
                continue
            both = [" → ".join(f"{values.mean():.3f}" for values in record.judged(task, name, key)) for key in LEARNED]
            rows.append([task, name, *both, gain.text(3, sign=True)])
    return rows


def learned_table(record: Record) -> str:
    """The same as a text table, whose head has two lines."""
    heads = [name.partition(", ")[::2] for name in LEARNED_HEAD]
    rows = [*map(list, zip(*heads, strict=True)), *learned_rows(record)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _pairs(record: Record, method: str, base: str) -> dict[str, tuple[Runs, Runs]]:
    pairs = record.pairs(method, base)
    if not pairs:
        raise ValueError(f"no task has runs of both {method} and {base}; the record has {', '.join(record.methods())}.")
    return pairs


def _of_ratio(ratio: Estimate) -> str:
    few = ratio.word == "undecided" and ratio.n < ratio.least
    return "too few to decide" if few else {"lower": "fewer", "higher": "more", "undecided": "undecided"}[ratio.word]


def _named(tasks: list[str]) -> str:
    return f"{len(tasks)} ({', '.join(tasks)})" if tasks else "none"
