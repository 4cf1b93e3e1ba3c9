"""Test a model on tasks as it is: zero-shot, or in context with --shots 32 as in the papers."""

import argparse
from pathlib import Path
from typing import Any

from zolab.cli.own_data import add_own_data, described
from zolab.runs.config import Config, check_range
from zolab.runs.names import DTYPE_NAMES, OWN_TASKS, QUANTISE_NAMES, TASK_NAMES

EXAMPLE = "--model tiny-reviews --task reviews_sentence reviews_writer --test 100 --out runs/evaluation.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    tasks = f"one or more of {', '.join(TASK_NAMES)}; or {OWN_TASKS}"
    count = "number of test examples, for all tasks or for each; by default the papers'"
    calibrate = "training examples on which an offset for each candidate is fitted; AUC is told too; 0 leaves this out"
    autocast = "compute in bfloat16 where torch deems it safe"
    out = "file for a record of the numbers, with versions and machine (JSON)"
    whole = {"type": int, "metavar": "INTEGER"}
    parser.add_argument("--model", default="smollm2-135m", help="embedded name, local folder or Hub id of the model")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="a peft adapter of the model, such as RUN/adapter")
    parser.add_argument("--task", nargs="+", default=["rotten_tomatoes"], metavar="NAME", help=tasks)
    parser.add_argument("--shots", default=0, **whole, help="solved training examples shown before each test example")
    parser.add_argument("--test", nargs="+", **whole, help=count)
    parser.add_argument("--calibrate", default=0, **whole, help=calibrate)
    parser.add_argument("--data_seed", default=0, **whole, help="seed of the draw of test examples and demonstrations")
    parser.add_argument("--dtype", default="float32", choices=DTYPE_NAMES, help="number format of the weights")
    parser.add_argument("--quantise", default="none", choices=QUANTISE_NAMES, help="format of weights, as finetune has it")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda:0")
    parser.add_argument("--autocast", action="store_true", help=autocast)
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    sizes = options.test or [None]
    if len(sizes) not in (1, len(options.task)):
        raise ValueError(f"--test has {len(sizes)} numbers for {len(options.task)} tasks; give one, or one for each.")
    if len(set(options.task)) < len(options.task):
        raise ValueError(f"--task names a task twice: {' '.join(options.task)}; give each once.")
    for name in ("shots", "calibrate", "data_seed"):
        check_range(name, getattr(options, name))
    for size in sizes:
        check_range("test", size)
    from zolab.models import check_quantiser, fit_length, load_model, read_adapter
    from zolab.records import environment, ready_for_record, save_record
    from zolab.runs.batches import check_classes
    from zolab.runs.evaluations import read_offsets
    from zolab.runs.identity import identity
    from zolab.tasks import load_task, shared_candidates
    from zolab.tasks.judgement import check_same_candidates

    check_quantiser(options.quantise)
    options.task = described(options, options.task)
    if options.out:
        ready_for_record(options.out)
    adapter = read_adapter(options.adapter) if options.adapter else None
    own = read_offsets(options.adapter or Path(options.model).expanduser())
    examples_of, training = {}, {}
    for name, size in zip(options.task, sizes * len(options.task), strict=False):
        task = load_task(name, options.autocast)
        examples = task.held_out(options.data_seed, size)
        if own and tuple(own["candidates"]) == shared_candidates(examples):
            task.offsets = tuple(own["offsets"])
        examples_of[name] = task, task.demonstrate(examples, options.shots, options.data_seed)
        if options.calibrate:
            solved = task.sample(options.data_seed, options.calibrate, 1, 1).train
            check_same_candidates(task, solved, examples)
            check_classes(Config(calibrate=options.calibrate), task, solved)
            training[name] = task.demonstrate(solved, options.shots, options.data_seed, among=True)
    model, tokenizer = load_model(options.model, options.dtype, options.device, options.quantise)
    if adapter:
        adapter.attach(model)
        fit_length(tokenizer, model)
    known = identity(model, tokenizer, {name: examples for name, (_, examples) in examples_of.items()})
    with_adapter = f" with {options.adapter}" if options.adapter else ""
    manner, result = f"{options.shots} demonstrations" if options.shots else "zero-shot", {}
    for name, (task, examples) in examples_of.items():
        result[name] = outcome = _tested(task, model, tokenizer, examples, training.get(name))
        print(f"{options.model}{with_adapter} on {task.name}, {manner}, {len(examples)} examples: loss {outcome['loss']:.3f}")
        if task.offsets:
            message = ", ".join(f"{offset:+.2f}" for offset in task.offsets)
            print(f"  with the offsets of its run, {message}, in loss and answers (offsets.json)")
        if outcome["cut"]:
            print(
                f"  {outcome['cut']} of the prompts were cut: with an answer they are longer than the task or the model takes"
            )
        for metric, entry in outcome["metrics"].items():
            low, high = (100 * end for end in entry["interval"])
            print(f"  {metric:11} {100 * entry['mean']:5.1f} %   (95 % interval {low:.1f} to {high:.1f} %)")
        blind = outcome["blind"].items()
        print("  without reading the prompt:", ", ".join(f"{way} {100 * value:.1f} %" for way, value in blind))
        if judged := outcome.get("judgement"):
            print(f"  {judged}")
            outcome["judgement"] = vars(judged)
        if options.out:  # after each task: a later one may fail
            config = {key: value for key, value in vars(options).items() if key not in ("out", "adapter")}
            config |= {"adapter": str(options.adapter)} if options.adapter else {}
            save_record({"config": config, "result": result, **known, **environment()}, options.out)


def _tested(task: Any, model: Any, tokenizer: Any, examples: list[Any], training: list[Any] | None) -> dict[str, Any]:
    """What a record says of a model on a task; its `judgement`, too, where there are examples to calibrate it on."""
    from zolab.tasks import cut
    from zolab.tasks.judgement import score_and_judge
    from zolab.tasks.metrics import interval

    both: Any = score_and_judge(task, model, tokenizer, training, examples) if training else ()
    loss, metrics = both[0] if both else task.score(model, tokenizer, examples)
    return {
        **({"judgement": both[1]} if both else {}),
        **({"offsets": list(task.offsets)} if task.offsets else {}),
        "examples": len(examples),
        "drawn_from": len(task.source.rows(task.source.held_out)),
        "cut": cut(task, tokenizer, examples),
        "loss": loss,
        "metrics": {metric: {"mean": values.mean(), "interval": interval(values)} for metric, values in metrics.items()},
        "blind": task.blind(examples),
    }
