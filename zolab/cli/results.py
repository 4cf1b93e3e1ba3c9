"""Write figures/RESULTS.md from the kept records; with --check, only say whether it agrees with them."""

import argparse
from pathlib import Path

EXAMPLE = "--check"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=Path("figures/records"), metavar="FOLDER", help="folder of the records")
    parser.add_argument("--out", type=Path, default=Path("figures/RESULTS.md"), metavar="FILE", help="file that is written")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the file says something else")


def run(options: argparse.Namespace) -> None:
    from zolab.records.files import write_atomically
    from zolab.studies.results import results

    if not options.records.is_dir():
        raise FileNotFoundError(f"there is no folder {options.records}; run this in the project's folder, or name it.")
    text = results(options.records)
    if not options.check:
        write_atomically(options.out, text.encode())
        print(f"{options.out}: {text.count('## ')} sections")
    elif not options.out.exists() or options.out.read_text() != text:
        raise ValueError(f"{options.out} does not say what {options.records} holds; `python -m zolab results` writes it again.")
    else:
        print(f"{options.out} agrees with {options.records}")
