"""The house: `zolab/` is rooms on floors, and a room imports only from floors below it. The imports of every file are read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zolab"
FLOORS = (
    ("noise", "records"),
    ("models",),
    ("probe", "tasks"),
    ("pertnn", "theory", "tiny_reviews"),
    ("optim",),
    ("runs", "landscapes"),
    ("l2l", "plots"),
    ("studies",),
    ("widgets", "cli"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
DOORS = {"__init__", "__main__"}  # the package's own: they lead into any room
LOOSE = {*DOORS, "plots"}  # files that may lie at the top


def room_of(path, package=PACKAGE):
    """The room of a file: a folder of the package, or a file at its top."""
    first, *rest = path.relative_to(package).parts
    return first if rest else Path(first).stem


def imported(source, inside):
    """Every name of `zolab` that a file imports, wherever the import stands: (line, "zolab.room. ...").

    Args:
        source: the file's text.
        inside: the dotted name of the package that the file lies in, for relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "zolab")
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(inside.split(".")[: len(inside.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            if base == "zolab":  # `from zolab import noise`, or a public name
                yield from ((node.lineno, f"zolab.{alias.name}") for alias in node.names)
            elif base.startswith("zolab."):
                yield node.lineno, base


def wrong_arrows(room, source, inside):
    """What a file of a room imports from its own floor or from one above, other than from its own room."""
    for line, name in imported(source, inside):
        other = [*name.split("."), ""][1]
        if other == room:
            continue
        if other not in FLOOR:
            yield f"line {line} imports {name}, which lies in no room: name the room that has it"
        elif FLOOR[other] >= FLOOR[room]:
            yield f"line {line} imports {name}: {room} is on floor {FLOOR[room]}, {other} on floor {FLOOR[other]}"


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in DOORS]


def test_every_room_is_in_the_table_and_every_row_is_a_room():
    assert {room_of(path) for path in FILES} == set(FLOOR)


def test_nothing_else_lies_at_the_top():
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_up(path):
    inside = ".".join(path.parent.relative_to(ROOT).parts)
    arrows = list(wrong_arrows(room_of(path), path.read_text(), inside))
    assert not arrows, f"{path.relative_to(ROOT)}: {'; '.join(arrows)}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from zolab.optim import MeZO", 1),
        ("from zolab import MeZO", 1),
        ("import zolab.runs.config", 1),
        ("import zolab", 1),
        ("def f():\n    from zolab.cli import errors", 1),
        ("from ..tasks.base import Task", 1),  # the same floor
        ("from zolab.tasks.base import Task\nfrom zolab import studies", 2),
        ("from zolab.noise import Direction\nfrom zolab import noise\nfrom .blocks import split\nimport torch", 0),
    ],
)
def test_the_reader_sees_each_kind_of_import(source, count):
    assert len(list(wrong_arrows("probe", source, "zolab.probe"))) == count


def test_no_other_place_is_started_from():
    """One command line: no `__main__` in a room, and no `main` but the package's own."""
    assert list(PACKAGE.rglob("__main__.py")) == [PACKAGE / "__main__.py"]
    for path in FILES:
        named = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert "main" not in named, path
        assert '__name__ == "__main__"' not in path.read_text(), path
