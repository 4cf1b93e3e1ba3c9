"""Write RESULTS.md, TRACK.md, CLAIMS.md and WHICH.md from the kept records; with --check, only say whether they agree."""

import argparse
from pathlib import Path

EXAMPLE = "--check"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=Path("figures/records"), metavar="FOLDER", help="folder of the records")
    text = "folder of the plans of the papers' tables, whose cost is told; without it that section is left out"
    parser.add_argument("--plans", type=Path, default=Path("notebooks/plans"), metavar="FOLDER", help=text)
    parser.add_argument("--out", type=Path, default=Path("figures/RESULTS.md"), metavar="FILE", help="file that is written")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if the file says something else")


def run(options: argparse.Namespace) -> None:
    from zolab.records.files import write_atomically
    from zolab.studies.claims import claims_page
    from zolab.studies.results import results, track_page
    from zolab.studies.which import which_page

    if not options.records.is_dir():
        raise FileNotFoundError(f"there is no folder {options.records}; run this in the project's folder, or name it.")
    pages = {
        options.out: results(options.records, options.plans),
        options.out.with_name("TRACK.md"): track_page(options.records),
    }
    pages[options.out.with_name("CLAIMS.md")] = claims_page(options.records)
    pages[options.out.with_name("WHICH.md")] = which_page(options.records)
    for path, text in pages.items():
        if text is None:  # no race was run, or not what a page is about
            continue
        if not options.check:
            write_atomically(path, text.encode())
            print(f"{path}: {text.count('## ')} sections")
        elif not path.exists() or path.read_text() != text:
            raise ValueError(f"{path} does not say what {options.records} holds; `python -m zolab results` writes it again.")
        else:
            print(f"{path} agrees with {options.records}")
