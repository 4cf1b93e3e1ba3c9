"""Command line: `python -m zolab COMMAND ...`, one of `COMMANDS` below; --help explains every option."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from transformers import HfArgumentParser

from zolab.cli.errors import reported


def _parser(name: str, command: Callable, kind: type = argparse.ArgumentParser, *settings: type):
    """A parser whose help is the command's first line, with every default."""
    about = {"prog": f"python -m zolab {name}", "description": command.__doc__}
    return kind(*settings, **about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def finetune_command(arguments: list[str]) -> None:
    """Fine-tune a model; started again in the same folder, the run goes on where it stopped."""
    from zolab.runs.finetune import Config, finetune

    parser = _parser("finetune", finetune_command, HfArgumentParser, Config)
    parser.add_argument("--out", required=True, help="folder of the run; a stopped run in it goes on", default=None)
    parser.add_argument("--overwrite", action="store_true", help="discard an earlier run in the folder")
    config, rest = parser.parse_args_into_dataclasses(arguments)
    run = finetune(config, rest.out, overwrite=rest.overwrite)
    result, timing = run.record["result"], run.record["timing"]
    metric = run.task.metric
    print(f"{config.optimizer} on {config.task}, {config.model}: kept step {result['best_step']} of {result['steps']}")
    for split in ("train", "test"):
        before, after = result[split]["before"], result[split]["after"]
        print(
            f"  {split:5} loss {before['loss']:.3f} -> {after['loss']:.3f}   "
            f"{metric} {100 * before['metric']:.1f} % -> {100 * after['metric']:.1f} %   ({after['examples']} examples)"
        )
    print(f"  {result['forwards']} forward passes, {timing['wall_seconds'] / 60:.1f} minutes", end="")
    print(f", peak memory {timing['peak_bytes'] / 1e9:.2f} GB; record: {Path(rest.out) / 'record.json'}")


def replay_command(arguments: list[str]) -> None:
    """Rebuild a run's fine-tuned weights from its base model and trajectory, without forward passes."""
    from zolab import Trajectory, replay
    from zolab.models import fingerprint, load_model
    from zolab.records import load_record
    from zolab.records.files import ready

    parser = argparse.ArgumentParser(prog="python -m zolab replay", description=replay_command.__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer (safetensors)")
    options = parser.parse_args(arguments)
    ready(options.out / "config.json")
    record = load_record(options.run / "record.json")
    config = record["config"]
    trajectory = Trajectory.load(options.run / "trajectory.npz")
    model, tokenizer = load_model(config["model"], config["dtype"], config["device"])
    if fingerprint(model) != record["base"]:
        raise ValueError(f"{config['model']} is no longer the model that {options.run} was started from; bring that one back.")
    replay(model, trajectory)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{len(trajectory.records)} steps replayed; the model is in {options.out}")


def sweep_command(arguments: list[str]) -> None:
    """Compare methods, each at its own best learning rate; started again in the same folder, the sweep goes on."""
    from zolab.studies.sweep import load_plan, sweep

    parser = argparse.ArgumentParser(prog="python -m zolab sweep", description=sweep_command.__doc__)
    parser.add_argument("plan", type=Path, help="YAML file of the plan; see zolab/sweep.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args(arguments)
    for name, method in sweep(load_plan(options.plan), options.out).items():
        seeds = method["seeds"].values()
        dev = ", ".join(f"{seed['dev_loss']:.3f}" for seed in seeds)
        print(f"{name:16} lr {method['lr']:.1e}   dev loss {dev}")


def metatrain_command(arguments: list[str]) -> None:
    """Train a PertNN for a model; started again in the same folder, it goes on with the period that it was in."""
    from zolab.l2l import MetaConfig, meta_train

    parser = _parser("metatrain", metatrain_command, HfArgumentParser, MetaConfig)
    parser.add_argument("--out", required=True, help="folder of PertNN, its card and the record", default=None)
    config, rest = parser.parse_args_into_dataclasses(arguments)
    run = meta_train(config, rest.out)
    steps, sigma = run.record["result"]["steps"], run.record["result"]["sigma"]
    print(f"{len(steps)} steps on {config.tasks}; meta-loss {steps[0]['meta_loss']:.4f} -> {steps[-1]['meta_loss']:.4f}")
    for name, value in sorted(sigma.items(), key=lambda item: -item[1])[:5]:
        print(f"  sigma {value:8.3f}   {name}")
    print(f"  peak memory {run.record['timing']['peak_bytes'] / 1e9:.2f} GB; PertNN and its card: {rest.out}")


def evolve_command(arguments: list[str]) -> None:
    """Evolve a PertNN's sigma from whole runs, by forward passes alone; started again in the same folder, it goes on."""
    from zolab.l2l import EvolveConfig, evolve

    parser = _parser("evolve", evolve_command, HfArgumentParser, EvolveConfig)
    parser.add_argument("--out", required=True, help="folder of PertNN, its card and the record", default=None)
    config, rest = parser.parse_args_into_dataclasses(arguments)
    result = evolve(config, rest.out).record["result"]
    print(f"{config.pairs} pairs of {config.steps} steps on {config.tasks}; lr {config.lr:.2e} -> {result['lr']:.2e}")
    for name, value in sorted(result["sigma"].items(), key=lambda item: -item[1])[:5]:
        print(f"  sigma {value:8.3f}   {name}")
    print(f"  PertNN and its card: {rest.out}")


def evaluate_command(arguments: list[str]) -> None:
    """Test a model on tasks as it is: zero-shot, or in context with --shots 32 as in the papers."""
    from zolab.models import DTYPES, load_model
    from zolab.records import environment, save_record
    from zolab.records.files import ready
    from zolab.tasks import TASKS, load_task
    from zolab.tasks.metrics import interval

    parser = _parser("evaluate", evaluate_command)
    parser.add_argument("--model", default="smollm2-135m", help="embedded name, local folder or Hub id of the model")
    parser.add_argument("--task", nargs="+", default=["rotten_tomatoes"], help=f"one or more of {', '.join(TASKS)}")
    parser.add_argument("--shots", type=int, default=0, help="solved training examples shown before each test example")
    parser.add_argument("--test", type=int, nargs="+", help="test examples, for all tasks or for each; by default the papers'")
    parser.add_argument("--data_seed", type=int, default=0, help="seed of the draw of test examples and demonstrations")
    parser.add_argument("--dtype", default="float32", help=f"weights: {', '.join(DTYPES)}")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda:0")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 where torch deems it safe")
    parser.add_argument("--out", type=Path, help="file for a record of the numbers, with versions and machine (JSON)")
    options = parser.parse_args(arguments)
    sizes = options.test or [None]
    if len(sizes) not in (1, len(options.task)):
        raise ValueError(f"--test has {len(sizes)} numbers for {len(options.task)} tasks; give one, or one for each.")
    if len(set(options.task)) < len(options.task):
        raise ValueError(f"--task names a task twice: {' '.join(options.task)}; give each once.")
    if options.data_seed < 0:
        raise ValueError(f"--data_seed must be at least 0, got {options.data_seed}.")
    if options.out:
        ready(options.out)
    drawn = {}
    for name, size in zip(options.task, sizes * len(options.task), strict=False):
        task = load_task(name, options.autocast)
        examples = task.held_out(options.data_seed, size)
        drawn[name] = task, task.demonstrate(examples, options.shots, options.data_seed)
    model, tokenizer = load_model(options.model, options.dtype, options.device)
    manner, result = f"{options.shots} demonstrations" if options.shots else "zero-shot", {}
    for name, (task, examples) in drawn.items():
        room = min(task.max_length, tokenizer.model_max_length)
        cut = sum(len(ids) > room for ids in tokenizer([e.prompt for e in examples], verbose=False)["input_ids"])
        loss, metrics = task.score(model, tokenizer, examples)
        means = {metric: {"mean": values.mean(), "interval": interval(values)} for metric, values in metrics.items()}
        blind, pool = task.blind(examples), len(task.source.rows(task.source.held_out))
        result[name] = {
            "examples": len(examples),
            "drawn_from": pool,
            "cut": cut,
            "loss": loss,
            "metrics": means,
            "blind": blind,
        }
        print(f"{options.model} on {name}, {manner}, {len(examples)} examples: loss {loss:.3f}")
        if cut:
            print(f"  {cut} of the prompts were longer than {room} tokens, and were cut")
        for metric, entry in means.items():
            low, high = (100 * end for end in entry["interval"])
            print(f"  {metric:11} {100 * entry['mean']:5.1f} %   (95 % interval {low:.1f} to {high:.1f} %)")
        print("  without reading the prompt:", ", ".join(f"{way} {100 * value:.1f} %" for way, value in blind.items()))
        if options.out:  # after each task: a later one may fail
            config = {key: value for key, value in vars(options).items() if key != "out"}
            save_record({"config": config, "result": result, **environment()}, options.out)


COMMANDS = {
    "finetune": finetune_command,
    "evaluate": evaluate_command,
    "replay": replay_command,
    "sweep": sweep_command,
    "metatrain": metatrain_command,
    "evolve": evolve_command,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab", description="Zeroth-order fine-tuning of language models.")
    summary = "; ".join(f"{name}: {command.__doc__}" for name, command in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=f"{summary} Each has its own --help.")
    command = parser.parse_args(sys.argv[1:2]).command
    return reported(lambda: COMMANDS[command](sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
