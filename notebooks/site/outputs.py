"""Run notebooks and keep their outputs in them: `make figures`, for one `make figures NOTEBOOKS=notebooks/02_landscapes.ipynb`.

A notebook runs from top to bottom in its own folder, with the parameters that it has: all of its work, not the small share of
it that `make test` does. Each code cell keeps a digest of what its outputs rest on, itself and all code cells before it, so
that `tests/test_project.py` tells which outputs are older than their code. A panel is kept as its picture; what shows nothing
where no kernel answers is left out.

A notebook whose run fails stays as it was; the run is in runs/notebooks.
"""

import hashlib
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs" / "notebooks"
DRAWN = ROOT / "runs" / "figures"  # where notebooks write their pictures
KEPT = ROOT / "figures"
LIVE = "application/vnd.jupyter.widget-view+json"  # of a panel; no kernel answers it in a file
EMPTY = re.compile(r"\s*<pre[^>]*>\s*</pre>\s*")
DIGEST = "made_by"


def digests(notebook: NotebookNode) -> list[str]:
    """For each code cell what tells it and those before it from any others."""
    so_far, found = hashlib.sha256(), []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            so_far.update(cell.source.encode() + b"\0")
            found.append(so_far.hexdigest()[:16])
    return found


def stale(notebook: NotebookNode) -> list[str]:
    """The ids of the code cells whose outputs were not made by the cells that stand there now."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell, digest in zip(code, digests(notebook), strict=True) if cell.metadata.get(DIGEST) != digest]


def run(path: Path) -> float:
    """Run a notebook and write its outputs into it; returns the seconds that it took."""
    written, begun = nbformat.read(path, as_version=4), time.monotonic()
    RUNS.mkdir(parents=True, exist_ok=True)
    ran = papermill.execute_notebook(path, RUNS / path.name, cwd=path.parent, kernel_name="python3", progress_bar=False)
    keep(path, written, ran)
    return time.monotonic() - begun


def keep(path: Path, written: NotebookNode, ran: NotebookNode) -> None:
    """Write a notebook with the outputs of its run that show something in a file."""
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    for cell, own, digest in zip(code, [c for c in written.cells if c.cell_type == "code"], digests(written), strict=True):
        assert cell.id == own.id
        own.execution_count, own.metadata[DIGEST] = cell.execution_count, digest
        own.outputs = joined([output for output in cell.outputs if not is_progress(output) and not is_lifeless(output)])
        for output in own.outputs:
            check(path, own, output)
            output.get("data", {}).pop(LIVE, None)
    beside = path.with_suffix(".new")
    beside.write_text(nbformat.writes(written).rstrip("\n") + "\n")
    beside.replace(path)


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs, where pieces of text that follow each other are one: a busy machine cuts them anywhere."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if kept and output.output_type == "stream" and output.name == kept[-1].get("name"):
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def is_progress(output: NotebookNode) -> bool:
    """Whether an output is a piece of a progress bar, which writes over itself."""
    return output.get("name") == "stderr" and ("\r" in output.text or not output.text.strip())


def is_lifeless(output: NotebookNode) -> bool:
    """Whether an output is a widget without a picture, of which a file shows but its name, or an empty block of text."""
    data = output.get("data", {})
    shown = set(data) - {LIVE, "text/plain"}
    return (LIVE in data and not shown) or (shown == {"text/html"} and bool(EMPTY.fullmatch(data["text/html"])))


def check(path: Path, cell: NotebookNode, output: NotebookNode) -> None:
    """Raise ValueError for an output that no reader should find in a file."""
    text = output.get("text", "") + "".join(str(value) for kind, value in output.get("data", {}).items() if "image" not in kind)
    for unwanted in (str(ROOT), str(Path.home())):
        if unwanted in text:
            raise ValueError(f"{path.name}, cell {cell.id} prints a path of this machine: {text[:200]!r}")
    if output.get("name") == "stderr":
        raise ValueError(f"{path.name}, cell {cell.id} warns: {text[:200]!r}")


def copy_pictures(path: Path) -> None:
    """The pictures of a notebook, whose names begin with its number, that pages outside notebooks show."""
    for picture in KEPT.glob(f"{path.stem.partition('_')[0]}_*.png"):
        if (DRAWN / picture.name).exists():
            shutil.copy(DRAWN / picture.name, picture)


def main(names: list[str]) -> None:
    for path in [Path(name).resolve() for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"{path.name} ...", end=" ", flush=True)
        print(f"{run(path):.0f} s, {path.stat().st_size / 1e6:.2f} MB")
        copy_pictures(path)


if __name__ == "__main__":
    main(sys.argv[1:])
