"""One style of parser for every command: the same help, the same way to write options, the same way to refuse."""

import argparse
import dataclasses
import difflib
import sys
import textwrap
import typing
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from zolab.cli import COMMANDS

PROGRAM = "python -m zolab"
YES, NO = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER"}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Every option with its default, where it has one, and without breaks at hyphens, so that texts can be searched for."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        if action.required or default is None or default is False or default in ("", argparse.SUPPRESS):
            return text
        default_text = "yes" if default is True else " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {default_text.replace('%', '%%')})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """A parser that takes `--data-seed` for `--data_seed`, no abbreviations, and refuses in one sentence."""

    def __init__(self, name: str, about: str, example: str = ""):
        """A parser.

        Args:
            name: of the command; empty for the program itself.
            about: what it does, a sentence.
            example: words that may follow the command, and run.
        """
        program = f"{PROGRAM} {name}".strip()
        epilog = f"example:\n  {program} {example}" if example else None
        super().__init__(prog=program, description=about, epilog=epilog, formatter_class=_Help, allow_abbrev=False)
        self.register("type", Path, _path)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_args([_underscored(word) for word in words], namespace)

    def error(self, message: str) -> NoReturn:
        foreign = message.removeprefix("unrecognized arguments: ")
        if foreign != message:
            known = [word for word in self._option_string_actions if word.startswith("--")]
            near = difflib.get_close_matches(foreign.split()[0].split("=")[0], known, 1)
            message = f"there is no option {foreign}" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(2, f"error: {message.rstrip('.')} ({self.prog} --help tells more).\n")


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"zolab.cli.{name}")


def sentence_of(name: str) -> str:
    """What a command does."""
    return (module_of(name).__doc__ or "").split("\n")[0]


def parser_of(name: str) -> Parser:
    """The parser of a command."""
    module = module_of(name)
    parser = Parser(name, sentence_of(name), module.EXAMPLE)
    module.add_options(parser)
    needed = [_word_of(action) for action in parser._actions if action.required]
    parser.usage = " ".join([parser.prog, *needed, "[options]"])
    return parser


def program_parser() -> Parser:
    """The parser of `python -m zolab` itself, whose help lists the commands."""
    parser = Parser("", "Zeroth-order fine-tuning of language models.")
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{sentence_of(name)}" for name in COMMANDS]
    parser.usage = f"{PROGRAM} COMMAND [options]"
    parser.epilog = "\n".join(["commands:", *lines, "", f"{PROGRAM} COMMAND --help explains a command's options."])
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """Give a parser an option for each field of a dataclass of settings, as `zolab.runs.config.option` made it.

    A field of type bool becomes a flag, which also takes a value (`--decay false`); one that is on unless told otherwise gets
    a flag `--no_NAME`, too.
    """
    kinds = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        _add(parser, field.name, kinds[field.name], field.default, field.metadata)


def settings_of(options: argparse.Namespace, settings: type) -> Any:
    """The dataclass that parsed options fill."""
    return settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(settings)})


def _add(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, metadata: typing.Mapping[str, Any]) -> None:
    help_text = metadata["help"].replace("%", "%%")
    choices = metadata.get("choices")
    if kind is bool:
        parser.add_argument(f"--{name}", nargs="?", const=True, type=_truth, default=default, metavar="yes|no", help=help_text)
        if default:
            parser.add_argument(
                f"--no_{name}", dest=name, action="store_false", default=argparse.SUPPRESS, help=f"not --{name}"
            )
        return
    optional = type(None) in typing.get_args(kind)
    plain = next(k for k in typing.get_args(kind) if k is not type(None)) if optional else kind
    read = _or_none(plain) if optional and plain is not str else plain
    metavar = None if choices else KINDS[plain]
    parser.add_argument(f"--{name}", type=read, default=default, choices=choices, metavar=metavar, help=help_text)


def _word_of(action: argparse.Action) -> str:
    """How a call names an option without which it is refused."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
    metavar = str(action.metavar or choices or action.dest.upper())
    return " ".join([*action.option_strings[:1], metavar])


def _underscored(word: str) -> str:
    """`--data-seed=3` as `--data_seed=3`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _path(word: str) -> Path:
    """A path as it was written; an empty one would be the current folder, and no file has a zero byte in its name."""
    if not word.strip() or "\0" in word:
        raise argparse.ArgumentTypeError(f"write a path, not {word!r}")
    return Path(word).expanduser()


def _truth(word: str) -> bool:
    if word.lower() in YES + NO:
        return word.lower() in YES
    raise argparse.ArgumentTypeError(f"write yes or no, not {word!r}")


def _or_none(kind: type) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        return None if word.lower() == "none" else kind(word)

    read.__name__ = kind.__name__  # which argparse shows when it cannot read a word
    return read
