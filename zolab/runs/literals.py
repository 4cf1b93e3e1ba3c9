"""How the settings of a method or an adapter are read from a text: literals with names, nothing that is executed."""

import ast
from typing import Any

LONGEST = 1 << 16  # characters of optim_args or tuning_args; the former may hold a scale for each tensor


def own_settings(text: str) -> dict[str, Any]:
    """The literals of `name=value, ...`. Raises ValueError, saying what is not one."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, more than {LONGEST:,}")
    try:
        call = ast.parse(f"dict(\n{text}\n)", mode="eval").body  # in a line of its own, since # begins a comment
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("there are values without names")
        names = [word.arg for word in call.keywords]
        if None in names or len(set(names)) < len(names):
            raise ValueError("each name may be there once")
        own = {str(word.arg): _literal(word) for word in call.keywords}
    except (SyntaxError, RecursionError, MemoryError) as error:  # how Python refuses what is nested too deeply
        raise ValueError("it cannot be read") from error
    for name, value in own.items():
        if not _plain(value):
            raise ValueError(f"{name[:80]} must be a finite number, a text, True, False, None or a list of them")
    return own


def _literal(word: ast.keyword) -> Any:
    try:
        return ast.literal_eval(word.value)
    except ValueError as error:  # which would show the address of a node
        raise ValueError(f"{str(word.arg)[:80]} is no number, text or list of them") from error


def _plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(part, depth - 1) for part in value)
    if isinstance(value, int | float):
        return abs(value) < 2**64
    return value is None or isinstance(value, str)
