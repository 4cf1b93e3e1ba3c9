"""What an exercise is made of."""

from collections.abc import Callable

Entry = tuple[str, int, int, str, str, Callable[..., tuple[bool, str]]]
"""Title, difficulty, minutes, goal, hint, judge: see `zolab.widgets.answers.Exercise`."""


def need(holds: bool, sentence: str) -> None:
    """Raise ValueError with a sentence unless an answer is one that can be judged."""
    if not holds:
        raise ValueError(sentence)
