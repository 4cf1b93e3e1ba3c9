"""What makes rows of a file a task without Python: templates in which the columns' names stand in braces."""

import json
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

from zolab.tasks.files import SUFFIXES

LONGEST = 1 << 16  # characters of a description
MARKS = ".,:;?!)\"'"  # after which a space stands


@dataclass(frozen=True)
class Description:
    """A task by its file, its prompt and its answers; a brace that is no column's is written twice.

    A space is put between a prompt that ends in a letter, a digit or a mark and an answer that begins with a letter or a digit;
    letters without capitals do not count, since their scripts may not part words.

    Args:
        data: the file, which ends in .jsonl, .csv or .parquet, or a folder; `LocalFile` says which rows are held out.
        prompt: the text before the answer: "{text} It was".
        candidates: the texts that may follow, at least two, with columns or without: ("terrible", "great").
        answer: instead of candidates, the text that the model is to write, up to the end of its line: "{answer}".
        label: the column that says which candidate is right, by its number from 0 or by its text.
        labels: what stands in that column instead, in the order of the candidates.

    Raises:
        ValueError: a template cannot be read or names no column, or candidates and answer do not make a task.
    """

    data: str
    prompt: str
    candidates: Sequence[str] = ()
    answer: str = ""
    label: str = "label"
    labels: Sequence[str] = ()

    def __post_init__(self):
        for name in ("data", "prompt", "answer", "label"):
            if not _is_text(value := getattr(self, name)):
                raise ValueError(f"{name} must be a text in UTF-8, got {_shown(value)}.")
        for name in ("candidates", "labels"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not all(map(_is_text, value)):
                raise ValueError(f"{name} must be a list of texts in UTF-8, got {_shown(value)}.")
            object.__setattr__(self, name, tuple(value))  # of a list, as JSON has it
        if Path(self.data).suffix not in (*SUFFIXES, ""):
            raise ValueError(f"{_shown(self.data)} must be a folder or a file that ends in {', '.join(SUFFIXES)}; convert it.")
        if bool(self.candidates) == bool(self.answer):
            raise ValueError(f"{self.data} needs candidates to choose from or an answer to write, one of both.")
        for option in ("prompt", "answer") if self.answer else ("prompt",):
            template = getattr(self, option)
            if not any(column for _, column in parts_of(template, option)):
                raise ValueError(f"the {option} {_shown(template)} names no column; write one in braces, such as {{text}}.")
        if self.candidates:
            self._check_choice()
        elif self.labels or self.label != "label":
            raise ValueError(
                f"{self.data} has an answer to write, so that no label says which candidate is right: leave it out."
            )

    def _check_choice(self) -> None:
        if len(self.candidates) < 2 or not all(map(str.strip, self.candidates)):
            raise ValueError(f"candidates must be at least two texts that are not empty, got {_shown(self.candidates)}.")
        for candidate in self.candidates:
            parts_of(candidate, "candidate")
        for listed in (self.candidates, self.labels):
            check_different(listed)
        parts_of(f"{{{self.label}}}", "label")
        if len(self.labels) not in (0, len(self.candidates)):
            count = f"{len(self.candidates)} candidates and {len(self.labels)} labels"
            raise ValueError(f"there are {count}; give a label for each candidate, in their order.")

    @classmethod
    def of(cls, settings: Any) -> "Description":
        """From a mapping, as JSON and YAML have it. Raises ValueError for keys that are unknown or missing, too."""
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping) or not {"data", "prompt"} <= set(settings) <= set(known):
            message = f"a task of your own has data and prompt, and may have {', '.join(known[2:])}"
            raise ValueError(f"{message}; {reprlib.repr(settings)} is no such thing.")
        return cls(**settings)

    @classmethod
    def parse(cls, text: str) -> "Description":
        """From the text that `str` gives."""
        try:
            if len(text) > LONGEST:
                raise ValueError(f"it has {len(text):,} characters, more than {LONGEST:,}")
            settings = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the task {_shown(text)} cannot be read as JSON ({str(error)[:80]}); correct it.") from error
        return cls.of(settings)

    def __str__(self) -> str:
        """On one line, as configurations and records have it: JSON, without what is as by default."""
        defaults = {field.name: field.default for field in fields(self)}
        own = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return json.dumps(own, ensure_ascii=False)

    @property
    def fixed(self) -> bool:
        """Whether the candidates are the same in each row."""
        return not any(column for text in self.candidates for _, column in parts_of(text, "candidate"))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        templates = (self.prompt, self.answer, *self.candidates)
        columns = [column for template in templates for _, column in parts_of(template, "template") if column]
        return tuple(dict.fromkeys([*columns, *([self.label] if self.candidates else [])]))


@lru_cache(maxsize=1000)
def parts_of(template: str, option: str) -> tuple[tuple[str, str | None], ...]:
    """The texts of a template, each with the column after it, if there is one.

    Raises:
        ValueError: the template, which the option of this name gave, cannot be read.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        message = f"the {option} {_shown(template)} cannot be read ({error})"
        raise ValueError(f"{message}; write a column in braces, such as {{text}}, and any other brace twice.") from error
    for _, column, form, conversion in parts:
        if column is not None and (not column.strip() or form or conversion or "." in column):
            message = f"the {option} {_shown(template)} has braces around what is no plain name of a column"
            raise ValueError(f"{message}, without full stop, colon and exclamation mark; correct it, or rename the column.")
    return tuple((before, column) for before, column, _, _ in parts)


def filled(template: str, row: Mapping[str, Any]) -> str:
    """A template with a row's texts, less the spaces around each. Raises ValueError if one is a list."""
    parts = []
    for before, column in parts_of(template, "template"):
        value = row[column] if column else ""
        if not isinstance(value, str):
            raise ValueError(f"{column} is {reprlib.repr(value)}, where one text should be; correct it.")
        parts += [before, value.strip()]
    return "".join(parts)


def after(prompt: str, answer: str) -> str:
    """An answer as it follows a prompt, with the space between them, if there should be one."""
    last, first = prompt[-1], answer[0]
    return f" {answer}" if (_parts_words(last) or last in MARKS) and _parts_words(first) else answer


def check_different(texts: Sequence[str]) -> None:
    """Raise ValueError if two texts are equal but for the spaces around them."""
    twice = next((text for text, count in Counter(map(str.strip, texts)).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{_shown(twice)} is there twice among {_shown(texts)}; let each be another.")


def _is_text(value: Any) -> bool:
    """A command line makes surrogates of bytes that are no UTF-8, and JSON may hold some."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _parts_words(letter: str) -> bool:
    return letter.isdigit() or letter.lower() != letter.upper()


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = 80
    return short.repr(value)
