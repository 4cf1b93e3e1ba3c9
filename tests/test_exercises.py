"""Exercises of notebooks: every solution reaches its goal, a wrong answer is told how to go on, the text asks for the same."""

import importlib.util
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from zolab import MEAZO, MeZO
from zolab.landscapes import Landscape
from zolab.studies.outcomes import Record
from zolab.widgets import check
from zolab.widgets.answers import exercises
from zolab.widgets.exercises import EXERCISES

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
EVERY = [(notebook, number) for notebook, listed in EXERCISES.items() for number in range(1, len(listed) + 1)]


def solutions(notebook):
    (path,) = (NOTEBOOKS / "solutions").glob(f"{notebook}_*.py")
    assert path.with_suffix(".ipynb").name in {other.name for other in NOTEBOOKS.glob("*.ipynb")}
    spec = importlib.util.spec_from_file_location(f"solutions_{notebook}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SOLUTIONS


def flat_run(**losses):
    return {"config": {"lr": 1e-4}, "steps": [{"loss": 1.0}] * 20}


def field_record():
    return Record.load(NOTEBOOKS.parent / "figures" / "records" / "04_field.json")


def bowl():
    """A landscape with one minimum that is said to have two."""
    return Landscape("bowl", "", lambda x, y: x**2 + y**2, ((0, 0), (2, 0)), 0, (1.9, 0.1), ((-3, 3), (-3, 3)))


def one_probe(parameters, loss_of, step, lr, eps, seed, samples):
    """A step that forgets three of its four samples."""
    solutions("01")[3]()[0](parameters, loss_of, step, lr, eps, seed, 1)


def wrong(notebook, number, right):
    """An answer that misses the goal, near the right one where it can be."""
    falls_not = partial(MEAZO, lr=0.05)
    return {
        ("00", 1): lambda: (flat_run(),),
        ("00", 2): lambda: (*right[:2], 0.0),
        ("00", 3): lambda: (right[0], "a film to see .", "a movie to see ."),
        ("01", 1): lambda: (right[0] * 20,),
        ("01", 2): lambda: (lambda d: d + 1,),
        ("01", 3): lambda: (one_probe,),
        ("01", 4): lambda: (right[0], right[1], 3 * right[2]),
        ("02", 1): lambda: (right[0] / 2,),
        ("02", 2): lambda: (falls_not, falls_not),
        ("02", 3): lambda: (right[0], 1e-3),
        ("03", 1): lambda: (right[0] + 1,),
        ("03", 2): lambda: (right[0] - 1,),
        ("03", 3): lambda: (2,),
        ("04", 1): lambda: (right[0], "MEAZO", right[2]),
        ("04", 2): lambda: (1 - 0.95**20,),
        ("04", 3): lambda: (lambda p: np.minimum(len(p) * p, 1),),
        ("05", 1): lambda: (100,),
        ("05", 2): lambda: (*right[:2], right[3], right[2]),
        ("05", 3): lambda: (lambda passage, question, ending, count: 2 * count,),
        ("06", 1): lambda: (right[0], 2 * right[1]),
        ("06", 2): lambda: ([1.0], [1.0] * 49),
        ("06", 3): lambda: (lambda g, hessian, s: 1 / np.trace(hessian),),
        ("07", 1): lambda: (right[0], 30, right[2]),
        ("07", 2): lambda: (right[0], 1.0, 1.0),
        ("07", 3): lambda: (1 / 3**0.5,),
        ("08", 1): lambda: (lambda q: 4 / q,),
        ("08", 2): lambda: (1,),
        ("08", 3): lambda: (right[0], right[1] + 1),
        ("09", 1): lambda: (5**-0.5 / 2,),
        ("09", 2): lambda: (right[0], right[2], right[1]),
        ("09", 3): lambda: (*right[:2], right[0]),
        ("10", 1): lambda: (right[0] - 1,),
        ("10", 2): lambda: (4, 4, 4, 0),
        ("10", 3): lambda: (*right[:2], right[2] - 1),
        ("11", 1): lambda: (lambda losses: (int((losses[0] <= losses.min(0)).sum()),) * 2,),
        ("11", 2): lambda: (0.5,),
        ("11", 3): lambda: (*right[:2], right[2] + 5),
        ("12", 1): lambda: (lambda loss, eps: 2.0**-11 / (2 * eps),),
        ("12", 2): lambda: (0.5,),
        ("12", 3): lambda: (1.0,),
        ("12", 4): lambda: (2 * right[0],),
        ("14", 1): lambda: (right[0] / 3,),
        ("14", 2): lambda: (*right[:2], 0.0),
        ("14", 3): lambda: (lambda model, trajectory, loss: loss() > 0,),
    }[notebook, number]()


@pytest.mark.parametrize(("notebook", "number"), EVERY, ids=lambda value: str(value))
def test_a_solution_reaches_the_goal_and_a_wrong_answer_gets_a_hint(notebook, number):
    torch.manual_seed(0)
    exercise, right = exercises(notebook)[number - 1], solutions(notebook)[number]()
    answer = check(notebook, number, *right)
    assert answer.met, answer
    assert answer.text.startswith(f"✓ Goal met: {exercise.goal}. Now: ")
    assert "Hint" not in str(answer)
    missed = check(notebook, number, *wrong(notebook, number, right))
    assert not missed.met, missed
    assert missed.text.startswith(f"○ Goal: {exercise.goal}. Now: ")
    assert missed.text.endswith(f"Hint: {exercise.hint}")


@pytest.mark.parametrize("notebook", EXERCISES)
def test_a_notebook_asks_for_what_is_checked(notebook):
    (path,) = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    (text,) = [cell.source for cell in cells if cell.cell_type == "markdown" and "## Exercises" in cell.source]
    heads = [line.split(". ", 1)[1] for line in text.splitlines() if line[:1].isdigit()]
    assert len(heads) == len(exercises(notebook)) == len(solutions(notebook))
    for line, exercise in zip(heads, exercises(notebook), strict=True):
        assert line.startswith(exercise.head), exercise.title
        assert 1 <= exercise.level <= 3
    assert any(f'check("{notebook}")' in cell.source for cell in cells if cell.cell_type == "code")


def test_answers_that_look_right_are_none():
    with pytest.raises(ValueError, match=r"\(2, 0\) is no minimum: the landscape is lower"):
        check("02", 3, bowl(), 0.2)
    with pytest.raises(ValueError, match="this is MeZO; both are MEAZO"):
        check("02", 2, partial(MeZO, lr=0.01), partial(MEAZO, lr=0.05))
    assert not check("02", 2, partial(MEAZO, lr=0.002), partial(MEAZO, lr=0.05)).met  # lower, but constant


def test_an_answer_that_is_none_is_said_in_a_sentence():
    assert str(check("03")).count("○") == 3
    answer = check("03", 1)
    assert not answer.met
    assert str(answer).endswith('check("03", 1, h)')
    for arguments, message in (
        (("97",), "no exercise of notebook '97' is checked; those of 00, 01"),
        (("03", 4), "has exercises 1 to 3, got 4"),
        (("03", 1, 2, 3), r'exercise 1 takes check\("03", 1, h\); it got 2'),
        (("03", 1, "many"), "h must be a whole number > 0, got 'many'"),
        (("01", 1, -1.0), "eps must be a number > 0"),
        (("00", 1, {"config": {"lr": 1}, "steps": []}), "the run has 0 steps; take 10 to 30"),
        (("04", 1, field_record(), "SGD checkpointed", 0.1), "'SGD checkpointed' has no two neighbours within half a nat"),
        (("04", 3, lambda p: p[:1]), "2 p-values go in, an array of shape \\(1,\\) comes out"),
        (("09", 3, [1.0], ["a"], [1.0, 2.0]), "all three need an entry for each block"),
        (("10", 1, 0), "batch must be a whole number between 1 and 99,999"),
        (("05", 1, 3.5), "n must be a whole number above 1"),
        (("07", 1, None, 32, 21.0), "a share between 0 and 1"),
        (("14", 2, None, ["0-A.npz"], 0.1), "give the files of both workers, round by round, got 1"),
        (("00", 3, None, "a b c", "a c"), "the sentences differ in 2 words"),
    ):
        with pytest.raises(ValueError, match=message):
            check(*arguments)
