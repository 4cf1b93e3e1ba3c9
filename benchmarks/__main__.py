"""Run benchmarks and keep their records: `python -m benchmarks [NAME ...] [--records FOLDER] [-- OPTIONS]`.

Each runs in a fresh process, one after the other, with nothing else on the machine if its numbers are to mean anything. What is
kept is what `python -m benchmarks.NAME --json` prints last, as `bench_NAME.json`.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from zolab.records import save_record

NAMES = (
    "step",
    "methods",
    "adamezo",
    "walks",
    "first_order",
    "scoring",
    "metatrain",
    "memory",
    "blocks",
    "widgets",
    "ranks",
    "cluster",
    "half",
)
ORIGIN = ("commit", "versions", "machine")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks and keep their records.")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    text = "where records are kept (default: %(default)s); figures/records has those that the pages are made of"
    parser.add_argument("--records", type=Path, default=Path("runs/bench"), metavar="FOLDER", help=text)
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options, more = parser.parse_args(words[:split]), words[split + 1 :]
    for name in options.names or NAMES:
        command = ["python", "-m", f"benchmarks.{name}", *more, "--json"]
        done = subprocess.run([sys.executable, *command[1:]], stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            return done.returncode
        result = json.loads(done.stdout.splitlines()[-1])
        origin = {key: result.pop(key) for key in ORIGIN}
        config = {"benchmark": name, "options": shlex.join(more)}
        record = {"command": shlex.join(command), "config": config, "result": result, **origin}
        save_record(record, options.records / f"bench_{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
