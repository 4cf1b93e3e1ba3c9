"""Measure on several tasks what one scale per block may gain, with error bars and on other examples than chose it."""

import argparse
from pathlib import Path

from zolab.cli.own_data import add_own_data, describe_tasks
from zolab.runs.names import FIRST_ORDER_NAMES, METHOD_NAMES, OWN_TASKS, TASK_NAMES

EXAMPLE = (
    "--model tiny-reviews --tasks reviews_sentence,reviews_genre --examples 256 --calibrate 64 --out runs/map "
    "--record runs/map.json"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2-135m", help="embedded name, local folder or Hub id of the model")
    tasks = f"names of tasks with commas between them: {', '.join(TASK_NAMES)}; or {OWN_TASKS}"
    parser.add_argument("--tasks", default="rotten_tomatoes_short", metavar="TASK,...", help=tasks)
    examples = "training examples that are measured: one number for all tasks, or one for each"
    parser.add_argument("--examples", type=int, nargs="+", default=[512], metavar="INTEGER", help=examples)
    groups = "sums of gradients that are kept, each as large as the model"
    parser.add_argument("--groups", type=int, default=8, metavar="INTEGER", help=groups)
    steps = "measure after so many steps of a run; 0 is the base model"
    parser.add_argument("--steps", type=int, nargs="+", default=[0], metavar="INTEGER", help=steps)
    methods = METHOD_NAMES + FIRST_ORDER_NAMES
    parser.add_argument("--optimizer", choices=methods, default="mezo", help="method of the run")
    parser.add_argument("--lr", type=float, default=1e-4, metavar="NUMBER", help="its learning rate")
    parser.add_argument("--batch_size", type=int, default=16, metavar="INTEGER", help="examples in a minibatch")
    parser.add_argument("--balanced", action="store_true", help="as many examples of each class in each batch of the run")
    offsets = "fit the candidates' offsets to so many training examples first, where they are common to all"
    parser.add_argument("--calibrate", type=int, default=0, metavar="INTEGER", help=offsets)
    parser.add_argument("--dev", type=int, default=64, metavar="INTEGER", help="examples of the dev loss at each point")
    parser.add_argument("--seed", type=int, default=0, metavar="INTEGER", help="of examples, batches and directions")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of what is done")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="file of the record (JSON)")
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    from zolab.l2l.config import TaskNames
    from zolab.runs.config import Config
    from zolab.studies.gain_figures import gain_table
    from zolab.studies.gain_map import gain_map

    names = ("model", "optimizer", "lr", "batch_size", "balanced", "calibrate", "dev", "seed")
    shared = {name: getattr(options, name) for name in names}
    config = Config(**shared, data_seed=options.seed, test=2)
    describe_tasks(options)
    tasks = TaskNames(options.tasks)
    tasks.check_task_names()
    places = (options.out, options.record)
    record = gain_map(config, tasks.task_names, options.examples, options.steps, options.groups, *places)
    print(gain_table(record["result"]["points"]))
