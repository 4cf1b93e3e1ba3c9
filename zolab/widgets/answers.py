"""Exercises that answer: what a reader gives is judged as a panel's settings are, with the goal, its place, and a hint."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zolab.widgets.exercises import EXERCISES
from zolab.widgets.panel import standing, wrapped


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook.

    Args:
        title: as the notebook has it.
        level: 1 to 3, as so many stars.
        minutes: that it may take.
        goal: what to reach, with a number.
        hint: what an answer that misses the goal is told.
        judge: from the answer, one or more arguments, to whether the goal is met and a phrase that says where it stands.
    """

    title: str
    level: int
    minutes: int
    goal: str
    hint: str
    judge: Callable[..., tuple[bool, str]]

    @property
    def head(self) -> str:
        """Title, difficulty and minutes, as the notebook's text has them too."""
        return f"**{self.title}** ({'★' * self.level}, {self.minutes} minutes)"


@dataclass(frozen=True)
class Checked:
    """What came of an answer. Jupyter and print show its text.

    Args:
        met: whether the goal is reached.
        text: a line or two.
    """

    met: bool
    text: str

    def __repr__(self) -> str:
        return wrapped(self.text)


def exercises(notebook: str) -> tuple[Exercise, ...]:
    """The exercises of a notebook, in order.

    Raises:
        ValueError: it has none that are checked.
    """
    if notebook not in EXERCISES:
        raise ValueError(f"no exercise of notebook {notebook!r} is checked; those of {', '.join(EXERCISES)} are.")
    return tuple(Exercise(*entry) for entry in EXERCISES[notebook])


def check(notebook: str, number: int | None = None, *answer: Any) -> Checked:
    """Judge an answer: `check("01", 1, 0.01)`. Without one, say what is asked for, of one exercise or of all.

    Args:
        notebook: its number, two digits.
        number: of the exercise, from 1.
        answer: what the exercise asks for.

    Returns:
        Whether the goal is met, and the line that says so; with a hint where it is not.

    Raises:
        ValueError: there is no such exercise, or it takes another answer.
    """
    listed = exercises(notebook)
    if number is None:
        return Checked(False, "\n".join(_asked(notebook, k, each) for k, each in enumerate(listed, 1)))
    if type(number) is not int or not 1 <= number <= len(listed):
        raise ValueError(f"notebook {notebook} has exercises 1 to {len(listed)}, got {number!r}.")
    chosen = listed[number - 1]
    if not answer:
        return Checked(False, _asked(notebook, number, chosen))
    try:
        inspect.signature(chosen.judge).bind(*answer)
    except TypeError as error:
        raise ValueError(f"exercise {number} takes {_call(notebook, number, chosen)}; it got {len(answer)}.") from error
    met, now = chosen.judge(*answer)
    hint = "" if met else f"\n  Hint: {chosen.hint}"
    return Checked(met, standing(met, chosen.goal, now) + hint)


def _asked(notebook: str, number: int, exercise: Exercise) -> str:
    head = exercise.head.replace("*", "")
    return f"○ {number} {head}: {exercise.goal}. {_call(notebook, number, exercise)}"


def _call(notebook: str, number: int, exercise: Exercise) -> str:
    """How it is answered."""
    return f'check("{notebook}", {number}, {", ".join(inspect.signature(exercise.judge).parameters)})'
