"""WHICH.md: which optimizer, which rate, how many steps, and when not at all.

The prose is in which.md beside this file; every number in it that a run gave is a name in braces, read from a record here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zolab.records import kept_records
from zolab.studies import evidence
from zolab.studies.compare import beside, learned, overall
from zolab.studies.family import is_first_order
from zolab.studies.field import labelled
from zolab.studies.finding import GPU, LATEST, TUNER, Records, rows_of, steps_on_gpu
from zolab.studies.learnability import ADAM, shares
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.statistics import Estimate

NEEDED = (LATEST, GPU, "00_headline", "03_methods", "04_field", "05_tiny", "bench_first_order")
LORA = "04_lora"
COMPARED = ("MEAZO", TUNER, "AdaMeZO", "HiZOO", "LOZO", "MeZO-Adam", "MeZO-AdamU")
LOST = 1.0  # nats beyond the best rate's loss: the model is lost
STEPS = 20_000  # of a paper's run
PAGE = Path(__file__).with_name("which.md")


def which_page(folder: Path) -> str | None:
    """The page, Markdown, from the records of a folder; None where one that it needs is not there."""
    records = kept_records(folder)
    if not set(NEEDED) <= set(records):
        return None
    parts = (_gradients, _field, _rates, _steps)
    numbers = {name: text for part in parts for name, text in part(records).items()}
    return PAGE.read_text().format(gpu=GPU, steps=f"{STEPS:,}", lora=_lora(records), **numbers)


def _gradients(records: Records) -> dict[str, str]:
    entries, bench = shares(Record(records["05_tiny"])), records["bench_first_order"]["result"]
    closed = [100 * entry["closed"] for entry in entries.values() if entry["closed"] is not None]
    ways = {"adam": "adam", "sgd": "sgd", "least": "sgd_fused_checkpointed", "mezo": "mezo"}
    head = Record(records["00_headline"])
    (task,), (name,) = head.tasks, head.methods()
    plain, offset = (100 * head.judged(task, name, key)[0].mean() for key in ("accuracy", "calibrated_accuracy"))
    after = 100 * head.judged(task, name, "calibrated_accuracy")[1].mean()
    return {
        "gap_tasks": str(len(closed)),
        "closed": f"{min(closed):.0f} to {max(closed):.0f}",
        **{f"gb_{way}": f"{bench[f'{key}_peak_bytes'] / 1e9:.1f}" for way, key in ways.items()},
        **{"plain": f"{plain:.1f}", "offset": f"{offset:.1f}", "added": f"{after - offset:.1f}"},
        **{name: _gain(entries[name]) for name in ("genre", "next", "number", "sentence")},
    }


def _gain(entry: Mapping[str, Any]) -> str:
    """A row of `shares`, in %: before, after MeZO, after Adam."""
    ours, adam = (100 * np.array(entry[way]) for way in ("mezo", "adam"))
    both = (f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in (ours, adam))
    return f"{100 * entry['zero_shot']:.1f} → {next(both)} %; Adam {next(both)}"


def _field(records: Records) -> dict[str, str]:
    record, steps = Record(records[LATEST]), steps_on_gpu(records)
    large = rows_of(records[GPU]["parts"], "methods 8b")
    row_of = {name: steps[record.plan["methods"][name]["optimizer"]] for name in (BASE, *COMPARED)}
    others = [name for name in record.methods() if name != BASE]  # judged together, as in RESULTS.md
    order = sorted(COMPARED, key=lambda name: row_of[name]["seconds"])
    comparisons = {name: overall(record, name, family=others) for name in order}
    lines = [f"| {BASE} | 1 | 0 | | 1 | {row_of[BASE]['peak_over_weights']:.2f} |"]
    for name, each in comparisons.items():
        words = [f"{word} on {', '.join(tasks)}" for word, tasks in (("lower", each.lower), ("higher", each.higher)) if tasks]
        cost = ("–" if row_of[name][key] is None else f"{row_of[name][key]:.2f}" for key in ("over_mezo", "peak_over_weights"))
        cells = (name, each.forwards.text(), each.final.text(3, sign=True), "; ".join(words) or "nothing", *cost)
        lines.append(f"| {' | '.join(cells)} |")
    most = row_of[BASE]["peak_over_weights"] + 0.05
    light = [
        n for n, each in comparisons.items() if (row_of[n]["peak_over_weights"] or most) < most and each.forwards.value < 1
    ]
    clear = [name for name, each in comparisons.items() if each.forwards.word != "undecided"]
    few = min(each.tasks for each in comparisons.values())
    more = "".join(f" ({name}: {each.tasks})" for name, each in comparisons.items() if each.tasks > few)
    field = Record(records["04_field"])
    ran = [name for name in field.methods() if name != BASE]
    zeroth = [name for name in ran if not is_first_order(name) and name != "forward gradient"]
    gaps = {name: beside(field, name, family=ran)[0] for name in zeroth}
    below = {name: row.final for name, row in gaps.items() if row.word == "lower"}
    return {
        "tasks": f"{few} tasks{more}",
        "seeds": str(len(record.plan["seeds"])),
        "budget": str(record.plan["base"]["forwards"]),
        "methods": "\n".join(lines),
        "light": ", ".join(light) or "none",
        "doubt": f"Intervals of passes that leave out 1: {', '.join(clear)}." if clear else "Every interval of passes holds 1.",
        "field_seeds": str(len(field.plan["seeds"])),
        "field_budget": f"{field.plan['base']['forwards']:,}",
        "field_methods": str(len(zeroth)),
        "tuner_8b": f"{large['zo_finetuner']['seconds'] / large['mezo']['seconds']:.2f}",
        "below": "; ".join(f"{name}, by {_turned(gap)}" for name, gap in below.items()) or "none",
        "most": f"{max([-gap.value for gap in below.values()], default=0.0):.2f}",
    }


def _turned(gap: Estimate) -> str:
    """How far below MeZO, of a difference that is negative."""
    return f"{-gap.value:.3f} nats ({-gap.high:.3f} to {-gap.low:.3f})"


def _rates(records: Records) -> dict[str, str]:
    record, tiny, few, head = (Record(records[stem]) for stem in (LATEST, "05_tiny", "03_methods", "00_headline"))
    tasks, gaps = ("sentence", "number"), [task for task, entry in shares(tiny).items() if entry["closed"] is not None]
    on = {name: [record.search(task, name)["lr"] for task in tasks] for name in (BASE, *COMPARED)}
    best = {name: [tiny.search(task, name)["lr"] for task in gaps] for name in (BASE, ADAM)}
    (few_task,), few = few.tasks, labelled(few)
    smol = {name: few.search(few_task, name)["lr"] for name in few.methods()}
    sentences, factors = [], []
    for task, chosen in zip(tasks, on[BASE], strict=True):
        losses = {float(rate): loss for rate, loss in record.search(task, BASE)["rounds"][-1]["losses"].items()}
        ends = [(rate, np.inf if loss is None else loss) for rate, loss in sorted(losses.items()) if rate >= chosen]
        sentences.append(f"on `{task}` MeZO ends at {', '.join(f'{loss:.2f} nats at {_rate(rate)}' for rate, loss in ends)}")
        factors += [rate / ends[0][0] for rate, loss in ends if loss > ends[0][1] + LOST][:1]
    sensitive = evidence.rates(records)
    return {
        "mezo_rates": ", ".join(f"{_rate(lr)} (`{task}`)" for lr, task in zip(on[BASE], tasks, strict=True)),
        "other_rates": "; ".join(f"{name} {_span(on[name])}" for name in COMPARED),
        **{"tiny_mezo": _span(best[BASE]), "tiny_adam": _span(best[ADAM])},
        "spread": f"{max(best[BASE]) / min(best[BASE]):.0f}",
        "smol_mezo": _rate(smol.pop(BASE)),
        "smol_others": "; ".join(f"{name} {_rate(lr)}" for name, lr in smol.items()),
        "head_rate": _rate(head.search(head.tasks[0], head.methods()[0])["lr"]),
        "too_large": "; ".join(sentences),
        "factors": " or ".join(dict.fromkeys(f"{factor:.0f}" for factor in sorted(factors))),
        "sensitive": sensitive.numbers[0] if sensitive else "",
    }


def _rate(lr: float) -> str:
    digits, _, power = f"{lr:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _span(rates: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(_rate(lr) for lr in (min(rates), max(rates))))


def _steps(records: Records) -> dict[str, str]:
    bases = {stem: Record(records[stem]).plan["base"] for stem in ("00_headline", "03_methods", "04_field", "05_tiny")}
    head, others = Record(records["00_headline"]), evidence.other_tasks(records)
    (task,), (name,) = head.tasks, head.methods()
    auc, gain = head.judged(task, name, "auc"), learned(head, task, name)
    large = [bases[stem]["steps"] for stem in ("03_methods", "00_headline")]
    large += [records[LORA]["config"]["base"]["steps"]] if LORA in records else []
    least, most = Record(records[LATEST]).plan["base"]["forwards"] // 2, bases["04_field"]["forwards"] // 2
    gpu = {}
    for size, shape in (("1b", "llama-3.2-1b"), ("8b", "llama-3.1-8b")):
        rows = {row["name"]: row for row in records[GPU]["parts"][f"steps {size}"]["rows"]}
        step = rows[f"{shape}, bfloat16, 16 x 256: through"]
        gpu |= {f"over_{size}": f"{step['over_forwards']:.2f}", f"seconds_{size}": f"{step['seconds']:.2g}"}
        gpu[f"minutes_{size}"] = f"{STEPS * step['seconds'] / 60:.0f}"
    return {
        **gpu,
        **{"large_steps": f"{min(large)} to {max(large)}", "small_steps": f"{least} to {most}"},
        "adam_steps": str((bases["05_tiny"] | Record(records["05_tiny"]).plan["methods"][ADAM])["steps"]),
        **{"tiny_steps": str(bases["05_tiny"]["steps"]), "smol_steps": str(bases["03_methods"]["steps"])},
        "head_steps": str(bases["00_headline"]["steps"]),
        "auc": " → ".join(f"{values.mean():.3f}" for values in auc),
        "auc_gain": gain.text(3, sign=True) if gain else "–",
        "other_tasks": others.numbers[0] if others else "",
    }


def _lora(records: Records) -> str:
    """What is known of adapters."""
    if LORA not in records:
        return "What adapters change: no kept record has runs of LoRA or prefixes."
    record = Record(records[LORA])
    (task,), (name,) = record.tasks, record.methods()
    runs, base = record.runs(task, name), record.plan["base"]
    before, after = runs.losses[:, 0].mean(), runs.final.mean()
    return (
        f"What adapters change beside full weights: no kept record has both. LoRA alone learns: with {name} the dev loss of "
        f"{base['model']} on `{task}` goes from {before:.3f} to {after:.3f} nats in {base['steps']} steps, by "
        f"{100 * (after / before - 1):+.0f} %, mean of {len(runs.seeds)} seeds ([{LORA}](records/{LORA}.json))."
    )
