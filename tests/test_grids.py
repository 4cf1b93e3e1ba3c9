"""What whole tables cost on a cluster: dealt out, the longest first, within what memory and the order of work allow."""

from pathlib import Path

import pytest

from zolab.studies.cost import Cost, costs, written
from zolab.studies.grids import SHARED, Run, days, grids_section, paper_grids, runs_of
from zolab.studies.plan import load_plan

PLANS = Path(__file__).resolve().parent.parent / "notebooks" / "plans"


def run(hours, searched=0, reported=1, gigabytes=10, alone=0.0, batch=16):
    cost = Cost("sst2", "MeZO", (1, 1), 1000, 3600 * hours, 1e9 * gigabytes, 3600 * alone, batch)
    return Run(searched, reported, cost)


def test_runs_are_dealt_out_the_longest_first():
    runs = [run(hours) for hours in (24, 48, 72, 96, 120)]
    assert days(runs, 1) == 15
    assert days(runs, 2) == 8  # 120 and 72; 96, 48 and 24
    assert days(runs, 64) == 5
    assert days([run(24, reported=7)], 3) == 3


def test_searches_come_first():
    assert days([run(24, searched=4)], 2) == 3
    assert days([run(24, searched=4)], 64) == 2


def test_a_run_that_no_card_holds_takes_several_at_a_time():
    large = run(24, gigabytes=100)
    assert large.cards == 2
    assert days([large], 1) is None
    assert days([large, large], 2) == 2
    assert days([large, large, run(24)], 3) == 2
    assert days([large, large], 8) == 1


def test_cards_that_share_a_batch_shorten_its_passes_alone():
    assert run(10, alone=2).hours_shared == pytest.approx(2 + 8 / SHARED)
    assert run(10, alone=2, batch=4).hours_shared == pytest.approx(2 + 8 / 4)


def test_the_hours_are_those_of_a_dry_run():
    plan = load_plan(PLANS / "zo_finetuner_llama-3.2-1b.yaml")
    hours = 24 * days(runs_of(plan), 1)
    assert f"about {hours:,.0f} hours of an H100, from measured steps" in written(plan, costs(plan))
    large = load_plan(PLANS / "adamezo_opt-30b.yaml")
    (row,) = [line for line in grids_section([(large, runs_of(large))])[1] if line.startswith("| AdaMeZO")]
    text = written(large, costs(large))
    assert f"about {row.split(' | ')[2]} hours of an H100" in text
    assert "each of its hours counts once a card" in text


def test_the_section_names_every_plan_of_a_paper_and_the_limits(tmp_path):
    for name in ("adamezo_roberta-large", "11_smollm2", "03_methods"):
        (tmp_path / f"{name}.yaml").write_text((PLANS / f"{name}.yaml").read_text())
    grids = paper_grids(tmp_path)
    assert [plan.about for plan, _ in grids] == ["AdaMeZO's tables on RoBERTa-large"]
    _, lines = grids_section([*grids, (grids[0][0], [run(48, gigabytes=200)])])
    rows = [line for line in lines if line.startswith("| ") and "hours" not in line and "---" not in line]
    assert len(rows) == 3
    assert "| 0.0 without 1 | 2.0 | 2.0 | 48.0 |" in rows[1]
    assert any("1 runs need more than the 80 GB of one card, up to 3 cards" in line for line in lines)
