"""Tasks of one's own: of a description, or of a class that its import path names."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from zolab.tasks.base import Example, Task
from zolab.tasks.description import Description, after, check_different, filled
from zolab.tasks.local import LocalFile
from zolab.tasks.reading import SQuAD

Row = dict[str, Any]
PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


class OwnTask(Task):
    """A task of a description. The file is read when the task is made, and every row is checked.

    Unless told otherwise, up to 500 rows choose the step, but no more than a quarter of those that are not held out.

    Args:
        description: of the task.
        autocast: as for `Task`.

    Raises:
        ValueError: the file or a row of it is none of this task; the sentence names both.
        OSError: there is no such file.
    """

    def __init__(self, description: Description, autocast: bool = False):
        super().__init__(autocast)
        self.description, self.name = description, Path(description.data).stem or "own"
        parts = LocalFile(description.data, description.columns).read()
        self.source = parts  # pyrefly: ignore[read-only]  (other tasks have it in common)
        self.dev = self.dev if parts.validation else max(1, min(self.dev, len(parts.train) // 4))
        numbered = [(part.numbers[i], part.place(i), row) for part in parts.tables for i, row in enumerate(part)]
        self._check([(place, row) for _, place, row in sorted(numbered, key=lambda one: one[0])])

    def _check(self, rows: list[tuple[str, Row]]) -> None:
        """Raise ValueError for the first row that is none of this task, by its place."""
        for place, row in rows:
            self._templated(row, place)


class Choosing(OwnTask):
    """A task with candidates: trained with the cross-entropy over them, judged by accuracy."""

    def template(self, row: Row) -> Example:
        described = self.description
        prompt = filled(described.prompt, row)
        candidates = tuple(after(prompt, filled(candidate, row)) for candidate in described.candidates)
        check_different(candidates)
        return Example(prompt, candidates, self.numbers[filled(f"{{{described.label}}}", row)])

    def _check(self, rows: list[tuple[str, Row]]) -> None:
        """Find what the labels stand for, too: the first of the ways that all of them allow."""
        label, ways = self.description.label, self._ways()
        labels = [(place, filled(f"{{{label}}}", row)) for place, row in rows]
        fitting = [way for way in ways if all(text in way for _, text in labels)]
        if not fitting:
            allowed = ", or ".join(", ".join(way) for way in ways)[:200]
            place, text = max((next(one for one in labels if one[1] not in way) for way in ways), key=labels.index)
            raise ValueError(
                f"{place} has {label} {text[:40]!r}; allowed are {allowed}: correct it, or name what stands in that column "
                "with labels, in the order of the candidates."
            )
        self.numbers = fitting[0]
        for way in fitting[1:]:
            if other := next((text for _, text in labels if way[text] != self.numbers[text]), None):
                raise ValueError(
                    f"{label} {other!r} of {self.description.data} may be a candidate's number or another one's text: "
                    "name what stands in that column with labels, in the order of the candidates."
                )
        if self.description.fixed and len({self.numbers[text] for _, text in labels}) == 1:
            raise ValueError(f"all rows of {self.description.data} have {label} {labels[0][1]!r}; add rows of another class.")
        super()._check(rows)

    def _ways(self) -> list[dict[str, int]]:
        """From a label to the number of a candidate."""
        described = self.description
        if described.labels:
            return [{text.strip(): number for number, text in enumerate(described.labels)}]
        numbers = {str(number): number for number in range(len(described.candidates))}
        if len(numbers) == 2:
            numbers |= {"False": 0, "True": 1}
        texts = (
            {filled(text, {}).strip(): number for number, text in enumerate(described.candidates)} if described.fixed else {}
        )
        return [texts, numbers] if texts else [numbers]


class Writing(OwnTask, SQuAD):
    """A task whose answer is written: trained on the answer and the end of its line, judged by SQuAD's F1 and exact match."""

    def template(self, row: Row) -> Example:
        prompt, answer = filled(self.description.prompt, row), filled(self.description.answer, row)
        if len(answer.splitlines()) > 1:
            raise ValueError(f"the answer {answer[:40]!r} has several lines, and a model's ends with the first; join them.")
        return Example(prompt, (f"{after(prompt, answer)}\n",), 0, references=((answer,),))


def own_task(description: Description, autocast: bool = False) -> OwnTask:
    """The task of a description; errors as for `OwnTask`."""
    return (Choosing if description.candidates else Writing)(description, autocast)


def imported(path: str) -> type[Task]:
    """A task's class by its import path, such as "package.module:MyTask". This runs the module's Python.

    Raises:
        ValueError: there is no such module or class, the module cannot be run, or the class is no `Task` with `name`, `source`
            and `template`.
    """
    match = PATH.fullmatch(path)
    if not match:
        raise ValueError(f"{path[:80]!r} is no import path of a task; write package.module:Class.")
    module, name = match.groups()
    try:
        kind = getattr(import_module(module), name, None)
    except (Exception, SystemExit) as error:  # whatever a module may raise while it runs
        raise ValueError(f"{module} cannot be imported ({type(error).__name__}: {error}); correct it, or its path.") from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"{path} is no subclass of zolab.tasks.Task; name one.")
    if missing := [part for part in ("name", "source") if not hasattr(kind, part)] + sorted(kind.__abstractmethods__):
        raise ValueError(f"{path} lacks {' and '.join(missing)}, which a task has; add them.")
    return kind
