"""Check finished runs from their trajectories: the same weights once more, and the losses that their records claim."""

import argparse
from pathlib import Path

EXAMPLE = "runs/example --curve"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run, or the trajectory in it")
    parser.add_argument("--curve", action="store_true", help="evaluate on dev wherever a run did, up to its best step")
    text = (
        "how far a loss may be from the record's, in nats; by default 0 on the machine, threads and torch of the run, and 1e-4 "
    )
    text += "(bfloat16: 2e-2, float16: 2e-3) on others"
    parser.add_argument("--tolerance", type=float, metavar="NUMBER", help=text)
    text = "torch device to replay and evaluate on; by default the run's, or what there is in its place"
    parser.add_argument("--device", metavar="TEXT", help=text)


def run(options: argparse.Namespace) -> None:
    if options.tolerance is not None and not 0 <= options.tolerance < float("inf"):
        raise ValueError(f"tolerance must be at least 0 and finite, got {options.tolerance}.")
    from zolab.runs.verify import verify

    wrong, open_questions = [], []
    for path in options.runs:
        folder, trajectory = (path.parent, path) if path.suffix == ".npz" else (path, None)
        print(path)
        try:
            for check in verify(folder, trajectory, options.curve, options.tolerance, options.device):
                word = {True: "ok", False: "differs", None: "unknown"}[check.holds]
                print(f"  {check.name:16} {word:8} {check.message}", flush=True)
                if check.holds is False:
                    wrong.append(f"{check.name} of {path}")
                elif check.holds is None:
                    open_questions.append(f"{check.name} of {path}")
        except (ValueError, OSError, ArithmeticError) as error:  # one run must not cost the others
            print(f"  refused: {' '.join(str(error).split())}")
            wrong.append(f"{path}, refused: {error}")
    if open_questions:
        print(f"not confirmed here: {', '.join(open_questions)}")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"not as recorded: {wrong[0].rstrip('.')}{more}.")
