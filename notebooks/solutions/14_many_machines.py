"""Solutions of notebook 14: `python notebooks/solutions/14_many_machines.py` prints what the checks say to them."""

import copy
import tempfile
from pathlib import Path

from torch import nn

from zolab import MeZO, Trajectory, replay
from zolab.models import load_model
from zolab.tasks import load_task
from zolab.widgets import check

ROUNDS, STEPS, BATCH = 2, 3, 4


def three_ranks():
    losses, ranks = 3, 3
    return (8 * (losses + 1) * ranks,)


def merged(base, files):
    model = copy.deepcopy(base)
    for file in files:
        replay(model, Trajectory.load(file))
    return nn.utils.parameters_to_vector(model.parameters()).detach().double()


def another_order():
    """Section 4 with fewer steps, and then worker B before worker A."""
    (base, tokenizer), task = load_model("tiny-reviews"), load_task("reviews_sentence")
    drawn = task.sample(0, train=100, dev=1, test=1).train
    shares = [[example for example in drawn if bool(example.answer) is good][:BATCH] for good in (True, False)]
    folder, model, files = Path(tempfile.mkdtemp()), copy.deepcopy(base), []
    for turn in range(ROUNDS):
        start = len(files)
        for name, own in enumerate(shares):
            worker, batch = copy.deepcopy(model), task.encode(tokenizer, own)
            optimizer = MeZO(worker.named_parameters(), lr=3e-4, seed=1000 * turn + name)
            for _ in range(STEPS):
                optimizer.step(lambda worker=worker, batch=batch: task.loss(worker, batch))
            files.append(folder / f"{turn}-{name}.npz")
            optimizer.trajectory.save(files[-1])
        for file in files[start:]:
            replay(model, Trajectory.load(file))
    first, second = merged(base, files), merged(base, [files[k ^ 1] for k in range(len(files))])
    return base, files, float((first - second).norm() / (first - merged(base, [])).norm())


def a_worker_that_lies():
    def honest(model, trajectory, loss):
        before = loss()
        replay(model, trajectory)
        return loss() < before

    return (honest,)


SOLUTIONS = {1: three_ranks, 2: another_order, 3: a_worker_that_lies}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("14", number, *solution()))
