"""What the kept records say about each claim of the papers; `zolab.studies.claims` lists the claims and the rules.

Each function takes the contents of the kept records and returns a `Finding`, or None where the records it needs are not there.
"""

from collections.abc import Sequence

import numpy as np

from zolab.studies.compare import at_edges, overall, searched_on_reported
from zolab.studies.finding import (
    CORRECTED,
    GPU,
    HOLDS,
    LATEST,
    NOT_SEEN,
    RECIPES,
    TUNER,
    Finding,
    Records,
    apart,
    in_study,
    is_lower,
    of_tasks,
    off,
    pair,
    rows_of,
    sentence,
    steps_on_gpu,
    tuners,
    with_trials,
)
from zolab.studies.gain_transfer import gain_text, points_at, with_signal
from zolab.studies.outcomes import Record
from zolab.studies.paper_tables import win_counts
from zolab.studies.papers import printed, wins
from zolab.studies.plan import BASE
from zolab.studies.predicted import concordances, outcomes
from zolab.studies.statistics import difference, mean_difference
from zolab.theory.bounds import CORRECTIONS, BoundTerms, block_bound, mezo_bound
from zolab.theory.terms import StepTerms

TABLE_1 = {"paper": "2510.00419", "table": "1"}
PREDICTED = "06_predicted"
GAIN_MAPS = ("06_gain_map_smollm2", "06_gain_map")
CONTROL = ("permuted", "untrained0", "untrained1")


def lowest_loss(records: Records) -> Finding | None:
    strict, cells = wins("train_loss", "zo_finetuner", **TABLE_1)
    tied, _ = wins("train_loss", "zo_finetuner", ties=True, **TABLE_1)
    alone, _ = wins("train_loss", "zo_finetuner", ("mezo",), **TABLE_1)
    recount = f"The printed table has it lowest in {strict} of {cells} cells, {tied} with ties; {alone} are beside MeZO alone"
    return _beside_mezo(records, [recount], counted=True)


def accuracy(records: Records) -> Finding | None:
    table = printed(**TABLE_1)
    table = table[table.measure.isin(["accuracy", "f1"])].pivot(index=["model", "task"], columns="method", values="value")
    gain = 100 * (table.zo_finetuner - table.mezo).mean()
    numbers, verdict, used = [f"The mean gain over MeZO in the printed table is {gain:.1f} points"], NOT_SEEN, []
    for stem, record, method in tuners(records):
        pairs = record.pairs(method)
        change = mean_difference([(100 * np.nan_to_num(a.metrics), 100 * np.nan_to_num(b.metrics)) for a, b in pairs.values()])
        verdict = HOLDS if not used and change.word == "higher" else verdict
        numbers.append(f"`{stem}`: {change.text(1, sign=True)} points over {len(pairs)} task{'s' * (len(pairs) > 1)}")
        used.append(stem)
    return Finding(verdict, _fine_tuners(records, used), numbers, used) if used else None


def budget(records: Records) -> Finding | None:
    note = "Without the budget steps have another size: here each recipe has its own best rate"
    return _recipes(records, [("published", "no_budget", TUNER, "no budget")], [note])


def reset(records: Records) -> Finding | None:
    return _recipes(records, [("published", "no_reset", TUNER, "no reset")])


def blocks(records: Records) -> Finding | None:
    """Runs decide; what the gain maps predict of one step stands beside them."""
    finding = _recipes(records, [("published", "layers", TUNER, "by layer"), ("gain", "gain_layers", "", "")])
    maps = [stem for stem in GAIN_MAPS if stem in records]
    predicted = [
        f"`{stem}`: predicted gain of a step over σ = 1, scales by tensor and by layer: "
        + "; ".join(
            f"{point['task']} {gain_text(point, 'G / V by tensor')} and {gain_text(point, 'G / V by layer')}"
            for point in with_signal(points_at(records[stem], 0))
        )
        for stem in maps
    ]
    return finding and Finding(finding.verdict, finding.ran, [*finding.numbers, *predicted], [*finding.records, *maps])


def other_tasks(records: Records) -> Finding | None:
    finding = _beside_mezo(records, [], leave_out=("sentence", "critic"))
    return with_trials(finding, records, {"09_trial": ("compare", "genre", "number"), "09_trial_smollm2": ("sst2",)})


def derivative(records: Records) -> Finding | None:
    return with_trials(_beside_mezo(records, [], only=("critic",)), records, {"09_trial": ("critic",)})


def rates(records: Records) -> Finding | None:
    """How much a rate one place off the best one costs, in the search."""
    numbers, verdict, used = [], NOT_SEEN, []
    for stem, record, method in tuners(records):
        costs = [(off(record, task, method), off(record, task, BASE)) for task in record.tasks if record.cells(task, method)]
        known = np.array([pair for pair in costs if None not in pair], float)
        if len(known) < 2:
            continue
        change, (ours, mezo) = difference(known[:, 0], known[:, 1]), known.mean(0)
        verdict = HOLDS if not used and change.word == "lower" else verdict
        message = f"the rates beside its best one cost {ours:.3f} nats, those beside MeZO's {mezo:.3f}"
        numbers.append(f"`{stem}`: {message}; difference {change.text(3, sign=True)} over {len(known)} tasks")
        used.append(stem)
    return Finding(verdict, "the searches of learning rates, rates beside the best one", numbers, used) if used else None


def memory(records: Records) -> Finding | None:
    steps = steps_on_gpu(records)
    if not {"mezo", "zo_finetuner"} <= set(steps):
        return None
    ours, mezo = (1 + steps[name]["peak_over_weights"] for name in ("zo_finetuner", "mezo"))
    number = f"Peak memory {ours / mezo:.3f} times MeZO's{apart(steps)}; at most 1.05 counts as equal"
    return Finding(HOLDS if ours / mezo <= 1.05 else NOT_SEEN, "a step of LLaMA-3.2-1B's shape on an H100", [number], [GPU])


def time(records: Records) -> Finding | None:
    steps, published = steps_on_gpu(records), 0.034
    if not {"mezo", "zo_finetuner"} <= set(steps):
        return None
    total, mezo = (steps[name]["seconds"] for name in ("zo_finetuner", "mezo"))
    share, row = 1 - mezo / total, printed(paper="2510.00419", table="6", model="Llama-3.2-1B").set_index("measure").value
    large = rows_of(records[GPU]["parts"], "methods 8b")
    numbers = [f"{1e3 * total:.0f} ms a step, {100 * share:.0f} % of it beyond the {1e3 * mezo:.0f} ms of MeZO's{apart(steps)}"]
    if {"mezo", "zo_finetuner"} <= set(large):
        ours, theirs = (large[name]["seconds"] for name in ("zo_finetuner", "mezo"))
        numbers.append(f"On the 8B shape {1e3 * ours:.0f} ms and {1e3 * theirs:.0f} ms: {100 * (1 - theirs / ours):.1f} %")
    numbers += [
        f"The paper's step takes {1e3 * row['step:total']:.0f} ms, and its scales {1e3 * row['step:sigma']:.0f} ms: a share is "
        "small where the rest is slow",
    ]
    return Finding(HOLDS if share < published else NOT_SEEN, "a step of LLaMA-3.2-1B's shape on an H100", numbers, [GPU])


def theory(records: Records) -> Finding | None:
    """Two blocks, of one and of a thousand weights, for which the printed sum lies above the bound that it is to tighten."""
    if "06_tiny" not in records:
        return None
    sizes, ones = np.array([1, 1000]), np.ones(2)
    norms, shares = np.array([100.0, 0.01]), np.array([1.0, 1000.0])
    terms = BoundTerms(sizes, ones, ones, norms, shares, 100.0, float(norms @ shares / 100), 1)
    printed_sum, corrected = (float(block_bound(terms, ones, 1e-4, names)) for names in ((), tuple(CORRECTIONS)))
    exact = float(StepTerms.isotropic(sizes, ones, ones, norms).change(ones, 1e-4))
    mezo, record = float(mezo_bound(terms, 1e-4)), Record(records["06_tiny"])
    gains = {task: values["predicted_gain"] for task, values in record.measured.items()}
    numbers = [
        f"With Hessian blocks of 100 (one weight) and 0.01 (a thousand), the printed sum at σ = 1 is {printed_sum:+.1e}, "
        f"MeZO's bound {mezo:+.3e}: looser; with each block's own norm, noise and size it is {corrected:+.3e}",
        f"A step that moves all blocks at once changes the loss by {exact:+.3e} in expectation: MeZO's bound is one, the "
        "corrected sum is not, since it belongs to blocks that move in turn",
        "One step's best decrease over MeZO's, all blocks moving at once: "
        + "; ".join(f"{task} {each['best']:.2f} (best σ), {each['bound']:.2f} (the bound's)" for task, each in gains.items()),
        *(f"In runs, {name} scales: {sentence(in_study(record, name))}" for name in ("best", "bound")),
    ]
    used = ["06_tiny"]
    if PREDICTED in records:
        runs = Record(records[PREDICTED])
        rows = outcomes(runs)
        alike, ways = concordances(rows), {row.way for row in rows}
        message = f"with savings of forward passes {alike['saving']}, with lower final losses {alike['final']}"
        numbers.append(
            f"`{PREDICTED}`: rank correlation of predicted gains, {len(ways)} ways to choose σ on each task, {message}"
        )
        if "best" in ways:
            numbers.append(
                f"`{PREDICTED}`: the best σ of a step, with the offset fitted first: {sentence(in_study(runs, 'best'))}"
            )
        used.append(PREDICTED)
    true = printed_sum > mezo > exact > corrected
    ran = "the bounds as printed and corrected; runs with σ from them"
    return Finding(CORRECTED if true else NOT_SEEN, ran, numbers, used)


def released(records: Records) -> Finding | None:
    """Learned, if what the scales owe to their random draw is less than half."""
    if "09_published" not in records:
        return None
    rows = list(records["09_published"]["result"].values())
    now, drawn = (np.log([row[key] for row in rows]) for key in ("sigma", "sigma_drawn"))
    share, near = float(np.corrcoef(now, drawn)[0, 1] ** 2), float((np.abs(now - drawn) < np.log(1.1)).mean())
    largest = float(np.exp(np.abs(now - drawn).max()))
    numbers = [
        f"The random draw explains {100 * share:.0f} % of the variance of log σ over {len(rows)} blocks; below half would hold",
        f"{100 * near:.0f} % of the scales lie within 10 % of those drawn; the largest change is {largest:.1f} times",
    ]
    ran = "the first weights of the released file of LLaMA-3.2-1B, recomputed"
    return Finding(HOLDS if share < 0.5 else NOT_SEEN, ran, numbers, ["09_published"])


def passes(records: Records) -> Finding | None:
    numbers, verdict, used = [], NOT_SEEN, []
    for stem in (LATEST, "03_methods"):
        record = Record(records[stem]) if stem in records else None
        if record is None or "AdaMeZO" not in record.methods():
            continue
        comparison = in_study(record, "AdaMeZO")
        verdict = HOLDS if not used and comparison.forwards.word == "lower" else verdict
        numbers.append(f"`{stem}`: {sentence(comparison)}")
        used.append(stem)
    return Finding(verdict, "AdaMeZO beside MeZO, each at its own best rate", numbers, used) if used else None


def adamezo_memory(records: Records) -> Finding | None:
    steps, numbers, ratios, used = steps_on_gpu(records), [], [], []
    if {"mezo", "adamezo"} <= set(steps):
        ratios.append((1 + steps["adamezo"]["peak_over_weights"]) / (1 + steps["mezo"]["peak_over_weights"]))
        numbers.append(f"LLaMA-3.2-1B's shape on an H100: {ratios[-1]:.3f} times MeZO's")
        used.append(GPU)
    if "03_benchmark" in records:
        ratios.append(records["03_benchmark"]["memory_over_mezo"])
        numbers.append(f"SmolLM2-135M on two cores: {ratios[-1]:.3f} times")
        used.append("03_benchmark")
    numbers += ["At most 1.07 holds, the paper's own"] if used else []
    return Finding(HOLDS if max(ratios) <= 1.07 else NOT_SEEN, "peak memory of a step", numbers, used) if used else None


def walks(records: Records) -> Finding | None:
    """Holds if AdaMeZO ends lower everywhere even where directions are fresh and MeZO has its own rate."""
    if "bench_walks" not in records:
        return None
    result = records["bench_walks"]["result"]
    rows, seeds = result["walks"], result["seeds"]
    length = max(row["length_off"] for row in rows.values())
    numbers = [f"The printed lengths of the paths come out within {100 * length:.1f} %"]
    for key, row in rows.items():
        message = f"in the paper's two directions {row['two']:.2g}, in fresh ones {row['fresh']:.2g} (AdaMeZO is lower with "
        message += f"{row['fresh_seeds_lower']} of {seeds} seeds), each at its best of three rates {row['mezo_tuned']:.2g}"
        numbers.append(f"MeZO's distance to the minimum at the end, over AdaMeZO's, on {key}: {message}")
    as_printed, fairly = (all(row[name] > 1 for row in rows.values()) for name in ("two", "mezo_tuned"))
    verdict = HOLDS if as_printed and fairly else CORRECTED if as_printed else NOT_SEEN
    if verdict == CORRECTED:
        fresh = sum(row["fresh"] > 1 for row in rows.values())
        numbers.append(
            f"It ends lower where the same two directions come back, and in fresh ones on {fresh} of {len(rows)} maps"
        )
    ran = "the published walks, the same in fresh directions, and three rates for each method"
    return Finding(verdict, ran, numbers, ["bench_walks"])


def second_moment(records: Records) -> Finding | None:
    note = "The printed row without a second moment equals that of beta 0.99 in all six numbers: one is a copy"
    return pair(records, LATEST, "AdaMeZO", "AdaMeZO, no second moment", [note])


def _beside_mezo(records: Records, numbers: list[str], *, only=(), leave_out=(), counted=False) -> Finding | None:
    """A fine-tuner beside MeZO, in each study that has one; the first one decides."""
    verdict, used = NOT_SEEN, []
    for stem, record, method in tuners(records):
        tasks = [task for task in record.tasks if (task in only if only else task not in leave_out)]
        part = of_tasks(record, tasks)
        if method not in part.methods():
            continue
        comparison, controls = in_study(part, method), [name for name in CONTROL if name in part.methods()]
        against = {name: overall(part, method, name) for name in controls}
        if not used and is_lower(comparison):
            verdict = HOLDS if all(map(is_lower, against.values())) else CORRECTED
        numbers = [*numbers, f"`{stem}`: {sentence(comparison)}"]
        if searched_on_reported(record):
            numbers.append("Rates were searched on seeds that are reported there")
        numbers += at_edges(part, (BASE, method))
        if against:
            message = "; ".join(f"{name} {each.final.text(3, sign=True)}" for name, each in against.items())
            numbers.append(f"Its final loss minus those of its controls, networks permuted or never trained: {message}")
        if counted and stem == LATEST:
            table_1 = [name for name in part.methods() if name in (BASE, "MeZO-Adam", "MeZO-AdamU", "HiZOO", "LOZO", TUNER)]
            strict, tied, cells = win_counts(of_tasks(part, tasks, table_1), method)
            numbers.append(f"Its training loss is lowest on {strict} of {cells} tasks strictly, on {tied} with ties")
        used.append(stem)
    return Finding(verdict, _fine_tuners(records, used), numbers, used) if used else None


def _recipes(records: Records, pairs: list[tuple[str, str, str, str]], numbers: Sequence[str] = ()) -> Finding | None:
    """Two recipes of meta-training beside each other, in the newest study and in the older one."""
    verdict, used, sentences = NOT_SEEN, [], list(numbers)
    for ours, theirs, new_ours, new_theirs in pairs:
        for stem, one, other in ((LATEST, new_ours, new_theirs), (RECIPES, ours, theirs)):
            finding = pair(records, stem, one, other, [])
            if finding is not None:
                verdict = finding.verdict if not used else verdict
                sentences += finding.numbers
                used += [stem] if stem not in used else []
    return Finding(verdict, "runs with the PertNN of each recipe, each at its own best rate", sentences, used) if used else None


def _fine_tuners(records: Records, stems: list[str]) -> str:
    """What ran in some studies."""
    models = dict.fromkeys(records[stem]["config"]["base"]["model"] for stem in stems)
    return f"fine-tuners of {' and '.join(models)} beside MeZO"
