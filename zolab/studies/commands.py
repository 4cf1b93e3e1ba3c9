"""The command that makes a kept record today. A record cannot follow when a command moves: it is sealed."""

from typing import Any

STUDY = "python -m zolab study notebooks/plans/{name}.yaml --out runs/{name} --record figures/records/{name}.json"
MOVED = {
    "python -m zolab sweep": STUDY,
    "python -m zolab.tiny study": STUDY,
    "python -m zolab.tiny seeds": STUDY,
    "python -m zolab.theory study": STUDY,
    "python -m zolab.l2l recipes": STUDY,
    "python -m zolab.l2l controls": STUDY,
    "python -m zolab.theory measure": "python -m zolab measure{rest}",
    "python -m zolab.published": "python -m zolab published{rest}",
}
"""What older records call a command, and what it is called today: `name` is the record's, `rest` the words that follow."""


def todays(content: dict[str, Any], name: str) -> str:
    """The command that makes a record again; empty for one that was made by a call from Python.

    Args:
        content: of the record; that of a GPU check needs no command of its own.
        name: of its file, without the suffix; a study's plan has the same.
    """
    if content.get("kind") == "gpu_check":
        return "make gpu-check"
    own = content.get("command", "")
    for old, new in MOVED.items():
        if own.startswith(f"{old} "):
            return new.format(name=name, rest=own.removeprefix(old))
    return own
