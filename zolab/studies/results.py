"""RESULTS.md: every kept record as a section, with what it takes to make its numbers again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zolab.records import kept_records
from zolab.runs.config import Config
from zolab.studies import draws, learnability
from zolab.studies.commands import todays
from zolab.studies.compare import LEARNED_HEAD, learned_rows, overall, searched_on_reported
from zolab.studies.grids import grids_section, paper_grids
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.plan import BASE
from zolab.studies.search import spacing
from zolab.studies.sections import Section, gpu_section, map_section, predicted_lines, table_of
from zolab.studies.track import track

HEAD = """# Results

Written by `python -m zolab results` from the records in this folder; a test fails where the two disagree.

- *a ± b*: mean and standard deviation over the seeds. *a (b to c)*: an estimate and its 95 % interval.
- *Forward passes*: to MeZO's mean final dev loss, divided by MeZO's own, medians over seeds of curves smoothed by the median of
  three evaluations. A run that never gets there counts with its whole budget; over several tasks a geometric mean
  with the t interval of its logarithm over tasks, of which it takes three. Fewer than six runs of one task decide nothing.
- *Final loss*: differences paired by seed, with t intervals; over several tasks the mean of the tasks' means, with theirs.
  *Decided*: after Holm's correction for all comparisons of the section. An asterisk marks a best learning rate at the edge of
  its grid.
- Every section begins with the command that makes its record today, and names the commit and the machine that made it. Where
  the command had another name at that commit, the older one is quoted.
- Studies whose command is older searched rates on seeds that they report. Their plans of today search on others, and some
  evaluate more often or report more seeds. A processor's last bits change a run.
"""


def results(folder: Path, plans: Path | None = None) -> str:
    """All records of a folder as Markdown, in the order of their names.

    Args:
        folder: with the records, JSON files.
        plans: a folder with plans of the papers' tables, whose cost is a section of its own.

    Raises:
        ValueError: a record is of no known kind.
    """
    parts, runs = [HEAD], []
    for stem, content in kept_records(folder).items():
        path = folder / f"{stem}.json"
        if "evaluations" in content:
            runs.append((path, content))
            continue
        title, lines = _section(path, content)
        parts.append("\n".join([f"## {title}", "", _origin(path, content), "", *lines, ""]))
    if runs:
        parts.insert(1, "\n".join(_runs(runs)))
    grids = paper_grids(plans) if plans and plans.is_dir() else []
    if grids:
        title, lines = grids_section(grids)
        parts.append("\n".join([f"## {title}", "", *lines, ""]))
    return "\n".join(parts)


def track_page(folder: Path) -> str | None:
    """The page of the track, from the records of its plans in a folder; None without one."""
    records = {stem: Record(content) for stem, content in kept_records(folder).items() if _of_track(content)}
    return track(records, folder) if records else None


def _of_track(content: dict[str, Any]) -> bool:
    return content.get("format") == FORMAT and content["config"].get("study") == "track"


def _section(path: Path, content: dict[str, Any]) -> Section:
    for fits, section in KINDS:
        if fits(content):
            return section(content)
    raise ValueError(
        f"{path} is the record of nothing that RESULTS.md has a section for; see KINDS in zolab/studies/results.py."
    )


def _origin(path: Path, content: dict[str, Any]) -> str:
    """Command, file, commit, machine, and the number of threads."""
    machine, command = content["machine"], todays(content, path.stem)
    place = machine.get("gpu") or machine["processor"]
    commit = (content["commit"] or "unknown")[:7]
    then = f", where it was `{content['command']}`" if content.get("command", command) != command else ""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    begin = f"`{command}`\n\n" if command else ""
    return f"{begin}Record [`{path.name}`](records/{path.name}); commit {commit}{then}; {place}, {threads}."


def _runs(runs: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """Single runs, a row each."""
    head = ["record", "seed", "training loss", "test accuracy", "forward passes", "minutes"]
    rows = []
    for path, content in runs:
        result, config = content["result"], content["config"]
        loss, metric = (
            [result[split][when][key] for when in ("before", "after")] for split, key in (("train", "loss"), ("test", "metric"))
        )
        rows.append(
            [
                f"[`{path.name}`](records/{path.name})",
                str(config["seed"]),
                f"{loss[0]:.3f} → {loss[1]:.3f}",
                f"{100 * metric[0]:.1f} % → {100 * metric[1]:.1f} %",
                str(result["forwards"]),
                f"{content['timing']['wall_seconds'] / 60:.1f}",
            ]
        )
    config = runs[0][1]["config"]
    words = " ".join(f"--{key} {config[key]}" for key in ("lr", "steps", "eval_every", "dev", "test"))
    about = f"`python -m zolab finetune {words} --seed S --data_seed S --out runs/S`"
    title = f"## Single runs: {config['optimizer']} on {config['task']}, {config['model']}"
    machines = " and ".join(dict.fromkeys(content["machine"]["processor"] for _, content in runs))
    commits = ", ".join(dict.fromkeys((content["commit"] or "unknown")[:7] for _, content in runs))
    return [title, "", about, "", f"Commit {commits}; {machines}.", "", *table_of(head, rows), ""]


def _study(content: dict[str, Any]) -> Section:
    record = Record(content)
    plan, lines = record.plan, []
    base = plan["base"]
    budget = f"{base['forwards']:,} forward passes" if "forwards" in base else f"{base.get('steps', Config.steps)} steps"
    lines.append(
        f"{base.get('model')}, {budget} of batch {base.get('batch_size', Config.batch_size)}; seeds {_list(plan['seeds'])}; "
        f"{_how_searched(record)}."
    )
    if plan["study"] in ("learnability", "draws"):
        return plan["about"], [*lines, "", *_shares(record)]
    names, tasks = record.methods(), record.tasks
    rows = [[name, *(_cell(record, task, name) for task in tasks)] for name in names]
    lines += ["", "Final dev loss, and the test metric in %:", "", *table_of(["method", *tasks], rows)]
    others = [name for name in names if name != BASE and record.pairs(name)]  # where a run failed there is nothing beside
    if BASE in names and others:
        head = ["beside MeZO", "forward passes", "one task left out", "final loss, difference", "lower on", "decided"]
        lines += ["", *table_of(head, (_beside(record, name, others) for name in others))]
    if plan["study"] == "predicted":
        lines += ["", *predicted_lines(record)]
    if learned := learned_rows(record):
        lines += ["", "Test examples before → after; the gain of AUC with its interval:", "", *table_of(LEARNED_HEAD, learned)]
    lines += [f"\nFailed: {entry['cell']}: {entry['error']}" for entry in record.failed]
    return plan["about"], lines


def _cell(record: Record, task: str, name: str) -> str:
    if not record.cells(task, name):
        return "–"
    runs, mark = record.runs(task, name), "*" if record.search(task, name)["edge"] else ""
    lost = int(np.isinf(runs.final).sum())
    loss = f"{lost} of {len(runs.final)} diverged" if lost else f"{runs.final.mean():.3f} ± {_sd(runs.final):.3f}"
    metrics = 100 * np.nan_to_num(runs.metrics)
    return f"{loss}{mark}; {metrics.mean():.1f} ± {_sd(metrics):.1f}"


def _beside(record: Record, name: str, family: list[str]) -> list[str]:
    comparison = overall(record, name, family=family)
    left_out = f"{comparison.without[0]:.2f} to {comparison.without[1]:.2f}" if comparison.tasks > 1 else "–"
    decided = [
        f"{word} on {', '.join(tasks)}" for word, tasks in (("lower", comparison.lower), ("higher", comparison.higher)) if tasks
    ]
    few = comparison.forwards.n < comparison.forwards.least
    word = "too few runs" if few else {"lower": "fewer", "higher": "more"}.get(comparison.forwards.word, "undecided")
    return [
        name,
        f"{comparison.forwards.text()}: {word}",
        left_out,
        comparison.final.text(3, sign=True),
        f"{comparison.wins} of {comparison.tasks}",
        "; ".join(decided) or "nothing",
    ]


def _shares(record: Record) -> list[str]:
    """What MeZO recovers of Adam's gain, of one model or of several."""
    if record.plan["study"] == "draws":
        by_seed = draws.by_model(record)
        names = list(next(iter(by_seed.values())))
        rows = []
        for seed, tasks in by_seed.items():
            perplexity = record.measured[f"{names[0]}@{seed}"]["perplexity"]["model"]["token"]
            cells = ("no gap" if tasks[name]["closed"] is None else f"{tasks[name]['closed']:.2f}" for name in names)
            rows.append([str(seed), f"{perplexity:.1f}", *cells])
        return ["Share of Adam's gain that MeZO recovers:", "", *table_of(["seed of the model", "perplexity", *names], rows)]
    rows = []
    for task, entry in learnability.shares(record).items():
        share = "no gap" if entry["closed"] is None else f"{entry['closed']:.2f}"
        ways = (100 * np.array(entry[way]) for way in ("adam", "mezo"))
        rows.append([task, f"{100 * entry['zero_shot']:.1f}", *(f"{way.mean():.1f} ± {_sd(way):.1f}" for way in ways), share])
    lines = table_of(["task (test metric, %)", "zero-shot", "Adam", "MeZO", "share of the gain"], rows)
    for weights, rank in next(iter(record.measured.values())).get("effective_rank", {}).items():
        lines.append(f"\nEffective rank on {record.tasks[0]}, {weights} weights: {rank['ratio']:.2f}.")
    return lines


def _evaluation(content: dict[str, Any]) -> Section:
    config = content["config"]
    rows = []
    for task, outcome in content["result"].items():
        for metric, entry in outcome["metrics"].items():
            low, high = (100 * end for end in entry["interval"])
            blind = ", ".join(f"{way} {100 * value:.1f}" for way, value in outcome["blind"].items())
            number = f"{100 * entry['mean']:.1f} ({low:.1f} to {high:.1f})"
            rows.append([task, metric, number, blind, f"{outcome['loss']:.3f}", str(outcome["examples"])])
    head = ["task", "metric", "%", "without reading (%)", "loss", "examples"]
    return f"{config['model']} on {len(content['result'])} tasks, {config['shots']} demonstrations", table_of(head, rows)


def _blocks(content: dict[str, Any]) -> Section:
    from zolab.theory.measure import BlockStatistics

    result, config = content["result"], content["config"]
    blocks = BlockStatistics.of(result["blocks"])
    head = ["kind of tensor", "weights", "G (squared gradient)", "G a weight", "V (example noise)", "t (trace of the Hessian)"]
    rows = [
        [kind, f"{int(e['size']):,}", *(f"{e[key]:.2e}" for key in ("square", "density", "variance", "trace"))]
        for kind, e in sorted(blocks.by_kind().items(), key=lambda item: -item[1]["density"])
    ]
    near = int((np.abs(blocks.traces) < 2 * blocks.errors).sum())
    message = f"{len(blocks.names)} blocks, {config['examples']} examples, {config['probes']} Hessian probes, "
    message += f"{result['minutes']:.1f} minutes, {result['gigabytes']:.1f} GB; "
    message += f"{near} of the traces lie within two standard errors of zero."
    return f"Blocks of {config['model']} on {config['task']}", [message, "", *table_of(head, rows)]


def _evolution(content: dict[str, Any]) -> Section:
    config, result = content["config"], content["result"]
    sigma = sorted(result["sigma"].values())
    forwards = config["pairs"] * 2 * config["steps"] * 2
    message = (
        f"{config['pairs']} pairs of runs of {config['steps']} steps on {config['tasks']}, {forwards:,} forward passes; lr "
    )
    message += f"{config['lr']:.1e} → {result['lr']:.1e}; σ of blocks from {sigma[0]:.2f} to {sigma[-1]:.2f}."
    return "σ evolved from whole runs", [message]


def _published(content: dict[str, Any]) -> Section:
    rows, config = content["result"].values(), content["config"]
    now, then = (np.array([row[key] for row in rows]) for key in ("sigma", "sigma_drawn"))
    draws = len({row["draw"] for row in rows})
    message = f"`{config['file']}`: {len(rows)} networks from {draws} distinct draws of seed {config['seed']}; median "
    message += f" |W1 − draw| at most {max(row['distance'] for row in rows):.1e}, to any other draw at least "
    message += (
        f"{min(row['other'] for row in rows):.2f}; median relative change {np.median([row['relative'] for row in rows]):.1e}; "
    )
    message += f"log σ correlates with the draw's by {np.corrcoef(np.log(now), np.log(then))[0, 1]:.2f}."
    return "The released fine-tuner of LLaMA-3.2-1B and its first weights", [message]


def _benchmark(content: dict[str, Any]) -> Section:
    result = content.get("result", content)
    rows = [[key, f"{value:.4g}"] for key, value in result.items() if isinstance(value, int | float)]
    name = content.get("config", {}).get("benchmark") or content["command"].split("benchmarks.")[1].split()[0]
    lines = table_of(["measured", "value"], rows) if rows else []
    for key, table in result.items():
        if isinstance(table, dict) and all(isinstance(row, dict) for row in table.values() or [0]):  # such as a row a method
            head = [key, *(column.replace("_", " ") for column in next(iter(table.values())))]
            lines += [""] * bool(lines)  # without it the table would go on
            lines += table_of(head, [[name, *(f"{number:.3g}" for number in row.values())] for name, row in table.items()])
    return f"Benchmark: {name}", lines


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


KINDS: list[tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Section]]] = [
    (lambda content: content.get("format") == FORMAT, _study),
    (lambda content: content.get("kind") == "gpu_check", gpu_section),
    (lambda content: "points" in content.get("result", {}), map_section),
    (lambda content: "shots" in content.get("config", {}), _evaluation),
    (lambda content: "blocks" in content.get("result", {}), _blocks),
    (lambda content: "pairs" in content.get("config", {}), _evolution),
    (lambda content: "sha256" in content.get("config", {}), _published),
    (lambda content: "benchmarks." in content.get("command", ""), _benchmark),
]


def _how_searched(record: Record) -> str:
    """How the learning rates were found, in words."""
    searches, plan = record.content["result"]["search"], record.plan["search"]
    rounds = [tried for methods in searches.values() for search in methods.values() for tried in search["rounds"]]
    if rounds and not any(tried["seeds"] for tried in rounds):
        return "learning rates as the plan has them"
    apart = spacing([tried["losses"] for tried in rounds]) or plan["factor"]
    message = f"rates a factor of {apart} apart, searched on seeds {', '.join(map(str, plan['seeds']))}"
    return message + (", which are reported too" if searched_on_reported(record) else "")
