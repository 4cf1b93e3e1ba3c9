"""The papers' plans cost something before anything is loaded; their tables and claims are functions of records."""

import copy
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from zolab.models import load_model
from zolab.pertnn import PertNN
from zolab.studies import claims, cost, evidence, expected
from zolab.studies.claims import CLAIMS, claims_page
from zolab.studies.cost import costs, written
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.paper_figures import margins
from zolab.studies.paper_tables import costs as cost_tables
from zolab.studies.paper_tables import own_table, published_table, table, win_counts
from zolab.studies.papers import papers
from zolab.studies.plan import check_plan, load_plan, variants
from zolab.studies.reading import read_yaml
from zolab.studies.reproduction import configurations, digest, narrowed, unrun
from zolab.studies.run import run_study
from zolab.studies.search import best_listed
from zolab.tasks import scoring

ROOT = Path(__file__).resolve().parent.parent
PLANS = ROOT / "notebooks" / "plans"
PAPERS = sorted([*PLANS.glob("zo_finetuner_*.yaml"), *PLANS.glob("adamezo_*.yaml")])
RECORDS = ROOT / "figures" / "records"
SMALL = {"batch_size": 2, "train": 8, "dev": 4, "test": 2}
PLAN = {
    "study": "reproduction",
    "paper": "2510.00419",
    "base": {"model": "tiny-reviews", "forwards": 6, "evaluations": 1, **SMALL},
    "tasks": {"sentence": {"task": "reviews_sentence", "lr": 1e-3}, "writer": {"task": "reviews_sentence", "lr": [1e-3]}},
    "methods": {
        "MeZO": {"optimizer": "mezo"},
        "LOZO": {"optimizer": "lozo", "grid": {"rank": [1, 2]}, "lr": [1e-3, 1e-4], "only": ["sentence"]},
        "tuner": {"optimizer": "zo_finetuner", "finetuner": "short", "only": ["sentence"]},
    },
    "finetuners": {"short": {"tasks": "reviews_sentence", "steps": 2, "period": 1, "batch_size": 2, "train": 8}},
    "search": {"factor": 2, "extend": 0, "seeds": [9]},
    "seeds": [0, 1],
}


def test_every_model_of_the_papers_tables_has_a_plan():
    models = {(plan.options["paper"], expected.SHAPES[model].printed) for path in PAPERS for plan, model in [of(path)]}
    models |= {("2510.00419", "Llama-3.1-8B-Instruct")}  # with the base model's
    rows = papers()
    assert models == {pair for pair in zip(rows.paper, rows.model, strict=True) if pair[1] != "toy"}
    assert len(PAPERS) == 10


def of(path):
    plan = load_plan(path)
    return plan, plan.base["model"]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_papers_plan_is_priced_without_weights_or_network(path, monkeypatch):
    monkeypatch.setattr(cost, "load_model", None)
    plan = load_plan(path)
    entries = costs(plan)
    assert {entry.task for entry in entries} == set(plan.tasks)
    assert {entry.method for entry in entries} == set(plan.methods)
    assert all(entry.seconds > 1 and entry.memory > 1e9 for entry in entries)
    text = written(plan, entries)
    assert "hours of an H100" in text
    assert ("a run stops" in text) == (plan.options["paper"] == "2605.00650")
    for config in configurations(plan).values():
        assert config.model == plan.base["model"]


def test_a_run_is_timed_as_it_computes(monkeypatch):
    passes = []
    monkeypatch.setattr(scoring, "autocasting", lambda on, device: passes.append(on) or nullcontext())
    base = {"model": "tiny-reviews", "task": "reviews_sentence", "steps": 2, "train": 16, "dev": 8, "test": 8, "autocast": True}
    content = {"base": base, "tasks": {"sentence": {"lr": 1e-4}, "plain": {"lr": 1e-4, "autocast": False}}, "seeds": [0]}
    plan = check_plan(
        {**content, "methods": {"MeZO": {"optimizer": "mezo"}}, "search": {"factor": 2, "extend": 0, "seeds": [1]}}
    )
    assert all(entry.seconds > 0 for entry in costs(plan))
    assert set(passes) == {True, False}


def test_what_is_expected_was_measured():
    content = json.loads((RECORDS / "gpu_nvidia_h100_80gb_hbm3.json").read_text())
    rows = {row["name"]: row for part in content["parts"].values() for row in part.get("rows", [])}
    for kind, (_, seconds) in expected.MEASURED.items():
        size, dtype = kind.split(", ")
        name = {"1B": "llama-3.2-1b", "8B": "llama-3.1-8b"}[size]
        assert seconds == pytest.approx(rows[f"{name}, {dtype}, 16 x 256: forwards"]["seconds"], rel=2e-2)
    for method, seconds in expected.A_STEP.items():
        row = rows[f"{method}, llama-3.2-1b, bfloat16"]["seconds"]
        if method == "zo_finetuner":
            row = expected.A_STEP["mezo"] * rows[f"{method}, llama-3.1-8b, bfloat16"]["over_mezo"]
        assert seconds == pytest.approx(row, rel=1e-2)


def test_the_papers_runs_are_those_of_the_authors_code():
    adamezo, _ = of(PLANS / "adamezo_opt-1.3b.yaml")
    assert (adamezo.base["patience"], adamezo.base["eval_every"], adamezo.base["lr"]) == (6, 100, [1e-7])
    eight, _ = of(PLANS / "zo_finetuner_llama-3.1-8b.yaml")
    assert len(variants(eight.methods["MeZO-AdamU"])) == 27
    assert [way["optim_args"] for way in variants(eight.methods["HiZOO"])] == ["alpha=1e-08", "alpha=1e-07"]
    (cells,) = {entry.cells for entry in costs(eight) if (entry.method, entry.task) == ("LOZO", "wsc")}
    assert cells == (4 * 4 + 3, 4 * 4 + 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paper": "1234"}, "paper must be one of 2510.00419, 2605.00650"),
        ({"papers": "1234"}, "unknown key papers; a plan of reproduction may have"),
        ({"methods": {"A": {"optimizer": "sgld"}}}, "unknown optimizer 'sgld'"),
        ({"methods": {"A": {"optimizer": "mezo", "learning": 1}}}, "are not a configuration"),
        ({"methods": {"A": {"optimizer": "mezo", "only": ["sst2"]}}}, "A: only must be a list of the plan's tasks"),
        ({"methods": {"A": {"optimizer": "mezo", "row": "sgld"}}}, "A: row must be METHOD or METHOD:VARIANT"),
        ({"methods": {"A": {"optimizer": "mezo", "grid": {"rank": 2}}}}, "grid must be names of a method's own settings"),
        ({"methods": {"A": {"optimizer": "mezo", "grid": {"rank": [2]}}}}, "do not fit mezo"),
        ({"methods": {"A": {"optimizer": "mezo", "lr": [1e-3, 1e-3]}}}, "or a list of different ones\\)"),
        ({"methods": {"A": {"optimizer": "mezo", "finetuner": "short"}}}, "goes with the optimizer zo_finetuner"),
        ({"methods": {"A": {"optimizer": "zo_finetuner", "finetuner": "long"}}}, "no fine-tuner is called 'long'"),
        ({"methods": {"A": {"optimizer": "mezo", "only": ["writer"]}}}, "no method runs on sentence"),
        ({"finetuners": {"short": {"speed": 1}}}, "the settings of the fine-tuner short are not a configuration"),
        ({"finetuners": {"short": {"period": 0}}}, "period must be at least 1"),
        ({"tasks": {"sentence": {"task": "reviews_sentense", "lr": 1e-3}}}, "unknown task 'reviews_sentense'"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, **changes})


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    return run_study(check_plan(PLAN), folder / "runs", folder / "record.json", progress=False), folder


def test_grids_lists_and_fine_tuners_are_run(record):
    study, folder = record
    assert study.methods("sentence") == ["MeZO", "LOZO", "tuner"]
    assert study.methods("writer") == ["MeZO"]
    assert study.search("writer", "MeZO") == {"lr": 1e-3, "edge": False, "rounds": [{"seeds": [], "losses": {}}]}
    lozo = study.search("sentence", "LOZO")
    assert {entry["optim_args"] for entry in lozo["rounds"]} == {"rank=1", "rank=2"}
    best = [min(entry["losses"].values()) for entry in lozo["rounds"]]
    assert best[-1] == min(best)
    assert lozo["edge"]
    names = {path.parent.name for path in (folder / "runs").glob("*/outcome.json")}
    chosen = {"rank=1": "~0", "rank=2": "~1"}[lozo["rounds"][-1]["optim_args"]]
    assert f"sentence-LOZO{chosen}-lr{lozo['lr']:.3g}-seed0" in names
    assert len([name for name in names if "LOZO" in name]) == 4 + 2
    pertnn = PertNN.load(folder / "runs" / "finetuners" / "short", load_model("tiny-reviews")[0])
    assert pertnn.card["training_data"] == "reviews_sentence"
    assert Record.load(folder / "record.json").content == study.content


def test_a_search_of_listed_rates_tries_them_all():
    walk = best_listed([1.0, 2.0, 4.0], (7, 8))
    assert next(walk) == [(rate, seed) for rate in (1.0, 2.0, 4.0) for seed in (7, 8)]
    with pytest.raises(StopIteration) as done:
        walk.send({(rate, seed): abs(rate - 2) + seed for rate in (1.0, 2.0, 4.0) for seed in (7, 8)})
    assert (done.value.value.lr, done.value.value.edge) == (2.0, False)
    assert done.value.value.losses == {"1": 8.5, "2": 7.5, "4": 9.5}


def test_less_of_a_plan():
    content = narrowed(PLAN, tasks=["writer"], seeds=[5], rates=[1e-2], meta_steps=1, forwards=2)
    assert set(content["methods"]) == {"MeZO"}
    assert content["finetuners"] == {}
    plan = check_plan(content)
    assert (plan.seeds, plan.base["forwards"], plan.base["lr"], plan.tasks) == (
        (5,),
        2,
        [1e-2],
        {"writer": {"task": "reviews_sentence"}},
    )
    assert check_plan(narrowed(PLAN)) == check_plan(PLAN)
    longer = {**PLAN, "finetuners": {"short": {**PLAN["finetuners"]["short"], "steps": 150, "period": 50}}}
    assert narrowed(longer, meta_steps=6)["finetuners"]["short"]["period"] == 2
    with pytest.raises(ValueError, match="the plan has no tasks called sst2; it has sentence, writer"):
        narrowed(PLAN, tasks=["sst2"])
    assert unrun(plan).tasks == []
    assert digest(plan) == digest(check_plan(content)) != digest(check_plan(PLAN))


def made_up(model, **finals):
    """A record on SST-2 of a model: for each method the training losses, and as many accuracies, of its seeds."""
    plan = {**PLAN, "base": {"model": model}, "tasks": {"one": {"task": "sst2"}}}
    plan["methods"] = {"MeZO": {"optimizer": "mezo"}, "mine": {"optimizer": "zo_finetuner"}, "HiZOO": {"optimizer": "hizoo"}}
    cells = [
        {"task": "one", "method": name, "lr": 1e-7, "seed": seed, "curve": [[0, 1.0], [2, loss]]}
        | {"train_loss_last": loss, "test_before": 0.5, "test_after": 1 - loss}
        for name, losses in finals.items()
        for seed, loss in enumerate(losses)
    ]
    search = {"one": {name: {"lr": 1e-7, "edge": name == "mine", "rounds": []} for name in finals}}
    return Record(
        {"format": FORMAT, "config": plan, "result": {"search": search, "cells": cells, "measured": {}, "failed": []}}
    )


def test_a_table_of_ours_beside_the_published_numbers():
    ours = made_up("meta-llama/Llama-3.2-1B", MeZO=[0.2, 0.3, 0.4], mine=[0.1, 0.12, 0.14])
    frame = table("2510.00419", "1", [ours], model="Llama-3.2-1B").set_index(["method", "task", "measure"])
    assert frame.loc["mezo", "sst2", "train_loss"].tolist()[1:] == ["0.300 ± 0.100 (3)", "0.29", "+0.1", "1e-07"]
    assert frame.loc["zo_finetuner", "sst2", "train_loss"].tolist()[1:] == ["0.120 ± 0.020 (3)", "0.14", "-1.0", "1e-07*"]
    assert frame.loc["zo_finetuner", "sst2", "accuracy"].ours == "0.880 ± 0.020 (3)"
    assert frame.loc["hizoo", "sst2", "train_loss"].tolist()[1:] == ["–", "0.27", "–", "–"]
    assert frame.loc["mezo", "copa", "train_loss"].ours == "–"
    other = table("2510.00419", "1", [made_up("tiny-reviews", MeZO=[0.2])])
    assert (other.ours == "–").all(), "another model's runs fill no cell of the paper's"


def test_spreads_of_both_sides_and_percents():
    ours = made_up("facebook/opt-1.3b", MeZO=[0.1, 0.2, 0.3])
    frame = table("2605.00650", "3", [ours]).set_index(["method", "task"])
    assert frame.loc["mezo", "sst2"].tolist()[2:5] == ["80.0 ± 10.0 (3)", "90.9 ± 0.3", f"{-10.9 / np.hypot(10, 0.3):+.1f}"]
    assert frame.loc["zero_shot", "sst2"].ours == "50.0 ± 0.0 (3)"
    assert "average" not in frame.reset_index().task.tolist()


def test_wins_are_counted_strictly_and_with_ties():
    tied = made_up("tiny-reviews", MeZO=[0.304], mine=[0.3], HiZOO=[0.4])
    assert win_counts(tied, "mine") == (0, 1, 1)
    assert win_counts(tied, "mine", digits=3) == (1, 1, 1)
    assert win_counts(tied, "HiZOO", "metric") == (0, 0, 1)
    assert win_counts(tied, "absent") == (0, 0, 0)
    lost = copy.deepcopy(tied.content)
    for cell in lost["result"]["cells"]:
        if cell["method"] == "HiZOO":
            del cell["train_loss_last"]
            cell["diverged"] = "NaN"
            break
    assert win_counts(Record(lost), "mine", digits=3) == (1, 1, 1)
    assert win_counts(Record(lost), "HiZOO", digits=3) == (0, 0, 1)


def test_our_tables_bear_the_models_name():
    frame = own_table(made_up("tiny-reviews", MeZO=[0.2, 0.4], mine=[0.1, 0.1]))
    assert frame.index.name == "tiny-reviews"
    assert frame.loc["MeZO", "one"] == "70.0 ± 14.1 (2)"
    assert frame.loc["mine", "one"].endswith("*")
    assert published_table("2605.00650", "3", "OPT-1.3B", ["accuracy", "f1"]).loc["adamezo", "sst2"] == "91.6 ± 0.3"
    assert own_table(unrun(check_plan(PLAN))).empty


def test_the_printed_margins_are_drawn():
    figure = margins("2510.00419", "1", "zo_finetuner")
    assert figure.get_suptitle() == "ZO Fine-tuner is strictly lowest in 20 of 28 printed cells"
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        *("Llama-3.2-1B: 6 of 7", "Llama-3.1-8B: 6 of 7", "Qwen2.5-14B: 2 of 7", "OPT-30B: 6 of 7"),
    ]
    widths = [bar.get_width() for bar in figure.axes[1].patches]
    assert min(widths) == pytest.approx(0.26 - 0.47)  # CB, below HiZOO


def test_a_run_that_stopped_early_stays_where_it_was():
    ours = made_up("tiny-reviews", MeZO=[0.2, 0.4])
    ours.content["result"]["cells"][1]["curve"] = [[0, 1.0], [2, 0.5], [4, 0.6]]
    assert Record(ours.content).runs("one", "MeZO").losses.tolist() == [[1.0, 0.2, 0.2], [1.0, 0.5, 0.6]]


def test_costs_are_those_of_the_gpus_record():
    frame = cost_tables(stored_records()).set_index(["table", "model", "method", "measure"]).ours
    assert frame.loc["8", "Llama-3.1-8B", "meta_training", "peak_memory"] == "19.2"
    rows = {row["name"]: row for row in stored_records()[evidence.GPU]["parts"]["methods 1b"]["rows"]}
    seconds = rows["zo_finetuner, llama-3.2-1b, bfloat16"]["seconds"]
    assert float(frame.loc["6", "Llama-3.2-1B", "zo_finetuner", "step:total"]) == pytest.approx(seconds, rel=1e-2)
    assert frame.loc["7", "OPT-30B", "mezo", "peak_memory"] == "–"


def stored_records():
    return {path.stem: json.loads(path.read_text()) for path in RECORDS.glob("*.json")}


def test_the_claims_agree_with_the_records():
    assert (ROOT / "figures" / "CLAIMS.md").read_text() == claims_page(RECORDS), "run `python -m zolab results`"
    assert [claim.key for claim in CLAIMS] == [*(f"ZF{i}" for i in range(1, 13)), *(f"AM{i}" for i in range(1, 5))]


def test_without_records_nothing_is_claimed(tmp_path):
    assert claims_page(tmp_path) is None
    findings = {claim.key: claim.judge({}) for claim in CLAIMS}
    assert set(findings.values()) == {None}
    page = claims.claims({"09_published": stored_records()["09_published"]})
    assert "| ZF12 | the released networks are learned | not seen |" in page
    assert page.count("not testable here |") == 15


def test_verdicts_follow_the_numbers():
    records = stored_records()
    gpu = records[evidence.GPU]
    rows = gpu["parts"]["methods 1b"]["rows"]
    tuner = next(row for row in rows if row["name"].startswith("zo_finetuner"))
    assert evidence.memory(records).verdict == "holds"
    assert evidence.time(records).verdict == "not seen"
    tuner["peak_over_weights"], tuner["seconds"] = (
        2.0,
        1.02 * next(row["seconds"] for row in rows if row["name"].startswith("mezo,")),
    )
    assert evidence.memory(records).verdict == "not seen"
    assert evidence.time(records).verdict == "holds"
    for row in records["09_published"]["result"].values():
        row["sigma"], row["sigma_drawn"] = row["sigma_drawn"], row["sigma"]
    assert evidence.released(records).verdict == "not seen"
    for i, row in enumerate(records["09_published"]["result"].values()):
        row["sigma"] = 1.0 + i % 2
    assert evidence.released(records).verdict == "holds"


def test_a_method_that_is_always_lower_is_seen():
    cells = {"MeZO": [0.5, 0.52, 0.51, 0.5, 0.53, 0.51], "mine": [0.4, 0.42, 0.4, 0.41, 0.4, 0.42]}
    ours = made_up("tiny-reviews", **cells)
    content = json.loads(json.dumps(ours.content).replace('"mine"', '"ZO Fine-tuner"'))
    finding = evidence.lowest_loss({evidence.LATEST: content})
    assert finding.verdict == "holds"
    assert "lowest on 1 of 1 tasks strictly" in " ".join(finding.numbers)
    swapped = json.loads(
        json.dumps(ours.content).replace('"mine"', '"X"').replace('"MeZO"', '"ZO Fine-tuner"').replace('"X"', '"MeZO"')
    )
    assert evidence.lowest_loss({evidence.LATEST: swapped}).verdict == "not seen"


def test_the_laptops_plan_has_every_method_of_the_table():
    plan = load_plan(PLANS / "11_reproduction.yaml")
    optimizers = {own["optimizer"] for own in plan.methods.values()}
    table_1 = papers()[(papers().paper == "2510.00419") & (papers().table == "1")].method
    assert optimizers >= {*table_1, "adamezo", "meazo"}
    assert read_yaml(PLANS / "11_reproduction.yaml")["seeds"] == list(range(10))
