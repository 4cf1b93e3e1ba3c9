"""Adam with gradients, on the same examples and with the same record as a zeroth-order run: what the latter is measured by."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zolab.models import load_model
from zolab.records import environment, load_record, peak_memory, reset_peak_memory, save_record
from zolab.runs.config import Config, require
from zolab.runs.finetune import batch_at
from zolab.runs.identity import check_same, identity
from zolab.tasks import load_task

FIRST_ORDER = ("adam",)
WARM_UP = 20  # steps
FORWARDS = 3  # a forward and a backward pass take as long as three forward passes


def first_order(config: Config, out: Path) -> dict[str, Any]:
    """Run Adam in a folder; a finished run is only read, a stopped one begins again.

    The learning rate rises over `WARM_UP` steps and falls linearly; the step with the lowest dev loss is tested.

    Args:
        config: its optimizer is one of `FIRST_ORDER`; its schedule, patience and checkpoints do not count.
        out: the folder.

    Returns:
        The record, as that of `zolab.runs.finetune`; `forwards` counts `FORWARDS` for each step.
    """
    path = out / "record.json"
    out.mkdir(parents=True, exist_ok=True)
    task, (model, tokenizer) = load_task(config.task, config.autocast), load_model(config.model, config.dtype, config.device)
    examples = task.sample(config.data_seed, config.train, config.dev, config.test)
    depends = identity(model, tokenizer, examples._asdict())
    if path.exists():
        record = load_record(path)
        require(record["config"] == asdict(config), f"{out} holds another run; choose another folder.")
        check_same(depends, record, out, "bring it back, or choose another folder")
        return record
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    shape = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, 1 - step / config.steps))
    reset_peak_memory(config.device)
    began, steps, evaluations = time.perf_counter(), [], []

    def evaluate(step: int, split: str) -> dict[str, Any]:
        found = task.evaluate(model, tokenizer, getattr(examples, split))
        evaluations.append({"step": step, "split": split, "forwards": FORWARDS * step, **found._asdict()})
        return evaluations[-1]

    before, best, after = evaluate(0, "test"), evaluate(0, "dev"), None
    for step in range(1, config.steps + 1):
        batch = task.encode(tokenizer, batch_at(examples.train, config.batch_size, config.seed, step - 1)).to(config.device)
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step - 1}: the loss is {loss.item()}; lower lr.")
        loss.backward()
        optimizer.step()
        shape.step()
        steps.append({"step": step - 1, "loss": loss.item()})
        if step % config.eval_every == 0 or step == config.steps:
            dev = evaluate(step, "dev")
            if dev["loss"] < best["loss"]:
                best, after = dev, evaluate(step, "test")
    result = {"best_step": best["step"], "dev": best, "steps": len(steps), "forwards": FORWARDS * len(steps)}
    result["test"] = {"before": before, "after": after or before}
    timing = {"wall_seconds": time.perf_counter() - began, "peak_bytes": peak_memory(config.device)}
    record = {"config": asdict(config), **depends, **environment()}
    record |= {"steps": steps, "evaluations": evaluations, "result": result, "timing": timing}
    save_record(record, path)
    return record
