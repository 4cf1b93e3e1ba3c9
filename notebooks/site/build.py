"""Gather README, notebooks, results and docstrings in runs/site/source and make static pages of them: `make site`.

Needs the extra `site`. Notebooks are not run. A link that leads nowhere, or any other warning, is an error.
"""

import ast
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent.parent
OUT = ROOT / "runs" / "site"
SOURCE = OUT / "source"
PAGES = ("CONTRIBUTING.md", "LICENSE", "zolab/tiny_reviews/reviews/README.md")
KERNELS = ROOT / "zolab" / "noise" / "kernels"  # for compilers, not for readers
MODULE = "## {title}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n```\n"


def gather() -> None:
    """Lay out the pages: the README is the first one, every room of the package has one in api/."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder in ("notebooks", "figures"):
        shutil.copytree(ROOT / folder, SOURCE / folder, ignore=shutil.ignore_patterns("site", ".ipynb_checkpoints"))
    for page in PAGES:
        (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, SOURCE / page)
    contents = (SITE / "contents.md").read_text()
    (SOURCE / "index.md").write_text(f"{(ROOT / 'README.md').read_text()}\n{contents}")
    (SOURCE / "api").mkdir()
    rooms = {path: page for path in sorted((ROOT / "zolab").iterdir()) if (page := room(path))}
    for path, page in rooms.items():
        (SOURCE / "api" / f"{path.stem}.md").write_text(page)
    lines = "\n".join(f"- [`zolab.{path.stem}`]({path.stem}.md): {sentence_of(path)}" for path in rooms)
    names = "\n".join(path.stem for path in rooms)
    (SOURCE / "api" / "index.md").write_text(
        f"# Reference\n\nFrom the docstrings, room by room.\n\n{lines}\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


def sentence_of(path: Path) -> str:
    """The first line of what a room says about itself."""
    file = path if path.suffix == ".py" else path / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]


def room(path: Path) -> str:
    """The page of a folder of the package, or of a file at its top; empty if it documents nothing."""
    files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    parts = [module(file) for file in files if KERNELS not in file.parents]
    return f"# `zolab.{path.stem}`\n\n" + "\n".join(parts) if any(parts) else ""


def module(file: Path) -> str:
    """The section of a module that defines something public; empty for others."""
    public = [
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
    ]
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return MODULE.format(title=name.removeprefix("zolab."), name=name) if public else ""


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    gather()
    sys.exit(main(["-W", "--keep-going", "-q", "-c", str(SITE), "-d", str(OUT / "doctrees"), str(SOURCE), str(OUT / "html")]))
