"""What readers are shown agrees with the kept records, and the first page stays one page."""

import json
import re
from pathlib import Path

import pytest

from zolab.__main__ import main
from zolab.studies.results import results

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "figures" / "records"


def test_results_agree_with_the_records(monkeypatch, capsys):
    assert (ROOT / "figures" / "RESULTS.md").read_text() == results(RECORDS), "run `python -m zolab results`"
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


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1500
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    (shown,) = [table for table in tables if "published" in table.splitlines()[0]]
    rows = shown.splitlines()[2:]
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
