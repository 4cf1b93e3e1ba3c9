"""Everything that only a GPU can tell, in one command of at most eight minutes; results are kept after every part.

Native tests of the kernels, exactness and replay of every method, each pass and each step at LLaMA shapes with random weights,
memory, meta-training, and steps of a real model. It needs torch, transformers, triton, numpy, numba, safetensors, filelock and
psutil, and pytest for the tests, but no network. Without a GPU, `--small` runs the same on a CPU in Triton's interpreter.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("torch", "transformers", "triton", "numpy", "numba", "safetensors", "filelock", "psutil")
BANDWIDTH = 3.35e12  # bytes a second of an H100's memory, as its data sheet has it
TESTS = ("tests/test_kernels_cuda.py", "tests/test_step_kernels.py", "tests/test_one_launch.py")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the same on a CPU, shrunk, in Triton's interpreter")
    parser.add_argument("--record", type=Path, help="where to write; by default figures/records/gpu_CARD.json")
    parser.add_argument("--seconds", type=float, default=470, help="begin no part that may end later")
    parser.add_argument("--only", help="run the parts whose names contain this")
    return parser.parse_args()


def plan(parts, small):
    """Each part with the seconds to allow for it, the most important first."""
    if small:
        shape = ("small", "float32", 2, 4)
        return [
            ("exactness", 20, parts.exactness),
            ("passes", 5, parts.passes),
            ("steps small", 10, partial(parts.steps, shape=shape[0], dtype=shape[1], batch=2, length=4)),
            ("methods small", 10, partial(parts.methods, shape=shape[0], dtype=shape[1], batch=2, length=4)),
            ("meta small", 10, partial(parts.meta, shape=shape[0], dtype=shape[1], batch=2, length=4)),
            ("reviews", 10, parts.reviews),
        ]

    def at(part, shape, dtype, batch, length):
        return partial(part, shape=shape, dtype=dtype, batch=batch, length=length)

    one, eight, smol = "llama-3.2-1b", "llama-3.1-8b", "smollm2-135m"
    return [
        ("passes", 20, parts.passes),
        ("steps 8b", 40, at(parts.steps, eight, "bfloat16", 16, 256)),
        ("steps 1b", 15, at(parts.steps, one, "bfloat16", 16, 256)),
        ("steps smollm2", 15, at(parts.steps, smol, "float32", 16, 32)),
        ("methods 8b", 30, partial(at(parts.methods, eight, "bfloat16", 16, 256), names=("mezo", "zo_finetuner"))),
        ("methods 1b", 40, at(parts.methods, one, "bfloat16", 16, 256)),
        ("reviews", 20, parts.reviews),
        ("steps 8b short", 25, at(parts.steps, eight, "bfloat16", 16, 64)),
        ("meta 8b", 45, at(parts.meta, eight, "bfloat16", 16, 128)),
        ("steps 1b float32", 25, at(parts.steps, one, "float32", 16, 256)),
        ("meta 1b", 15, at(parts.meta, one, "bfloat16", 16, 128)),
        ("exactness", 40, parts.exactness),  # last: nothing is timed while the kernels' tests run beside it
    ]


def native_tests(cuda):
    """The kernels' tests, begun in a process of their own: their references take a while to compile for the CPU."""
    if not cuda or importlib.util.find_spec("pytest") is None:
        return None
    options = ["-q", "-W", "default", "-o", "addopts=", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, "-k", "cuda and not interpreter and not compiled", *TESTS]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def last_line(process, seconds):
    """The last line of the tests, or that they did not finish."""
    if process is None:
        return "not run: they need a GPU and pytest"
    try:
        return process.communicate(timeout=max(seconds, 1))[0].strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        process.kill()
        return "not finished in time"


def line(row):
    """A row of the table."""
    cells = [f"  {row['name']:56}"]
    seconds, moved = row.get("seconds"), row.get("bytes")
    cells.append(f"{seconds:9.4f} s" if seconds is not None else " " * 11)
    rate = f"{moved / 1e9:7.1f} GB {moved / 1e9 / seconds:6.0f} GB/s {moved / seconds / BANDWIDTH:4.0%}" if moved else ""
    cells.append(rate.rjust(27))
    for key, form in (
        ("over_forwards", "{:.2f} x two forwards"),
        ("over_published", "{:.2f} x published"),
        ("over_mezo", "{:.2f} x MeZO"),
        ("picoseconds_a_weight", "{:.2f} ps a weight"),
        ("peak_over_weights", "{:.3f} of the weights beyond them"),
        ("steps_a_second", "{:.1f} steps a second"),
        ("memory_over_forwards", "peak {:.3f} x that of a forward pass"),
    ):
        if row.get(key) is not None:
            cells.append(form.format(row[key]))
    cells += [f"{key}: {'yes' if row[key] else 'NO'}" for key in ("exact", "replay", "moved") if key in row]
    return "  ".join(cells)


def main():
    options = arguments()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(f"this needs {', '.join(missing)}, which Python does not find here: install what is missing and run it again.")
    if options.small:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not options.small and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; `python -m benchmarks.gpu_check --small` runs the same on a CPU.")
    begun = time.monotonic()
    tests = None
    from benchmarks import gpu_parts as parts
    from zolab.noise import directions, low_rank, pieces
    from zolab.noise.kernels import cuda
    from zolab.records import environment, save_record

    if options.small:
        for module in (directions, low_rank, pieces):
            module.backend_for = lambda tensor: cuda  # the interpreter runs these kernels on a CPU's tensors
    import triton

    card = "interpreter" if options.small else re.sub(r"\W+", "_", torch.cuda.get_device_name()).lower()
    path = options.record or ROOT / "figures" / "records" / f"gpu_{card}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = parts.Machine("cpu" if options.small else "cuda", options.small, cuda)
    record = {"kind": "gpu_check", "card": card, "triton": triton.__version__, **environment(), "parts": {}}
    print(f"{card}, torch {torch.__version__}, triton {triton.__version__}", flush=True)
    for name, needs, part in plan(parts, options.small):
        if options.only and options.only not in name:
            continue
        if time.monotonic() - begun + needs > options.seconds:
            record["parts"][name] = {"skipped": "there was no time left for it"}
        else:
            if name == "exactness":
                tests = native_tests(not options.small and not options.only)
            record["parts"][name] = measured(name, part, machine)
            parts.forget()
        save_record(record, path)
    record["native_tests"] = last_line(tests, options.seconds - (time.monotonic() - begun))
    record["seconds"] = time.monotonic() - begun
    save_record(record, path)
    print(f"kernels' native tests: {record['native_tests']}\n{record['seconds']:.0f} s; written to {path.name}")
    failed = [name for name, part in record["parts"].items() if "error" in part or not sound(part)]
    if failed or "failed" in record["native_tests"]:
        sys.exit(f"not as it should be: {', '.join(failed) or 'the tests of the kernels'}")


def measured(name, part, machine):
    """The rows of a part, or those until it failed and why."""
    begun, rows = time.monotonic(), []
    print(name, flush=True)
    try:
        for row in part(machine):
            rows.append(row)
            print(line(row), flush=True)
    except Exception as error:  # the other parts are still worth having
        print(f"  failed: {type(error).__name__}: {error}", flush=True)
        return {"rows": rows, "error": f"{type(error).__name__}: {error}"}
    return {"rows": rows, "seconds": time.monotonic() - begun}


def sound(part):
    return all(row.get("exact", True) and row.get("replay", True) for row in part.get("rows", []))


if __name__ == "__main__":
    main()
