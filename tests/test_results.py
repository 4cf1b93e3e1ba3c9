"""What readers are shown agrees with the kept records, and the first page stays one page."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from zolab.__main__ import main
from zolab.records import commit, kept_records, record
from zolab.studies.results import results
from zolab.studies.which import NEEDED, which_page

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "figures" / "records"
PLANS = ROOT / "notebooks" / "plans"


def test_results_agree_with_the_records(monkeypatch, capsys):
    assert (ROOT / "figures" / "RESULTS.md").read_text() == results(RECORDS, PLANS), "run `python -m zolab results`"
    monkeypatch.chdir(ROOT)
    assert main(["results", "--check"]) == 0
    assert "agrees with" in capsys.readouterr().out


def test_every_record_has_a_section_that_says_how_it_was_made():
    text = results(RECORDS)
    for path in RECORDS.glob("*.json"):
        assert f"(records/{path.name})" in text, path.name
        content = json.loads(path.read_text())
        assert content["commit"][:7] in text
        assert content["machine"]["processor"]


def test_a_record_that_changed_is_noticed(tmp_path, monkeypatch, capsys):
    (tmp_path / "records").mkdir()
    content = json.loads((RECORDS / "03_benchmark.json").read_text())
    (tmp_path / "records" / "03_benchmark.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    words = ["results", "--records", "records", "--out", "RESULTS.md"]
    assert main(words) == 0
    assert main([*words, "--check"]) == 0
    content["step_over_mezo"] += 1
    (tmp_path / "records" / "03_benchmark.json").write_text(json.dumps(content))
    assert main([*words, "--check"]) == 1
    assert capsys.readouterr().err.startswith("error: RESULTS.md does not say what records holds")
    (tmp_path / "records" / "odd.json").write_text('{"config": {}, "result": {}}')
    with pytest.raises(ValueError, match="is the record of nothing"):
        results(tmp_path / "records")
    assert main(["results", "--records", "nowhere"]) == 1


@pytest.mark.parametrize("text", ['{"config": {"a"', "[1]"])
def test_a_damaged_record_is_named(tmp_path, capsys, text):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "mine.json").write_text(text)
    assert main(["results", f"--records={tmp_path / 'records'}", f"--out={tmp_path / 'RESULTS.md'}"]) == 1
    assert "mine.json" in capsys.readouterr().err


def test_the_page_on_choices_is_made_of_records(tmp_path):
    for path in RECORDS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in NEEDED:
        (tmp_path / f"{name}.json").rename(tmp_path / "gone")
        assert which_page(tmp_path) is None, name
        (tmp_path / "gone").rename(tmp_path / f"{name}.json")
    lora, bench = map(kept_records(RECORDS).get, ("03_methods", "bench_first_order"))
    cell = {"task": "rotten_tomatoes", "method": "MeZO", "lr": 1e-4}
    curves = ([[0, 1.0], [400, end]] for end in (0.6, 0.65, 0.7))
    lora["result"]["cells"] = [{**cell, "seed": seed, "curve": curve} for seed, curve in enumerate(curves)]
    lora["result"]["search"] = {"rotten_tomatoes": {"MeZO": {"lr": 1e-4, "edge": False, "rounds": []}}}
    lora["config"]["base"]["steps"] = 200
    bench["result"]["adam_peak_bytes"] = 9_990_000_000
    (tmp_path / "04_lora.json").write_text(json.dumps(lora))
    (tmp_path / "bench_first_order.json").write_text(json.dumps(bench))
    page, kept = which_page(tmp_path), (ROOT / "figures" / "WHICH.md").read_text()
    assert "from 1.000 to 0.650 nats in 200 steps, by -35 %, mean of 3 seeds" in page
    assert "SmolLM2-135M for 60 to 300 steps" in page
    changed = [line for line in page.splitlines() if line not in kept.splitlines()]
    assert [line for line in changed if "10.0" in line] == [line for line in changed if "Adam 10.0 GB, SGD 2.1" in line] != []
    assert len(changed) <= 3
    assert ("no kept record has runs of LoRA" in kept) is not (RECORDS / "04_lora.json").exists()


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1500
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    (comparison,) = [table for table in tables if "published" in table.splitlines()[0]]
    rows = comparison.splitlines()[2:]
    assert 1 <= len(rows) <= 12
    limits = text.split("## Limits")[1].split("\n## ")[0]
    assert limits.count("\n- ") <= 8
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 80


def test_the_readmes_links_lead_somewhere_and_its_results_name_their_records():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link
    section = text.split("## Results")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (?!claim|---).*", section, re.M):
        assert re.search(r"\(figures/records/\w+\.json\)|\(notebooks/\w+\.ipynb\)", row), row


def test_links_of_the_pages_lead_to_files():
    """Not to folders, which the site cannot show."""
    for page in [path for folder in ("figures", "notebooks") for path in (ROOT / folder).glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("http") or (page.parent / unquote(link)).is_file(), (page.name, link)


def test_a_commit_is_that_of_a_checkout_of_zolab_and_of_no_other(tmp_path, monkeypatch):
    assert re.fullmatch("[0-9a-f]{40}(\\+changes)?", commit() or "")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "mine"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(record, "__file__", str(tmp_path / "site" / "zolab" / "records" / "record.py"))
    (tmp_path / "site" / "zolab").mkdir(parents=True)
    assert commit() is None
