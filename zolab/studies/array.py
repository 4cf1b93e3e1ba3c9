"""A plan as a SLURM job array: a job for each method on each task, requeued when its time is over."""

import re
import shlex
import sys
from pathlib import Path

from zolab.studies.cost import planned
from zolab.studies.plan import Plan, configuration, variants

SCRIPT = """\
#!/bin/bash
# Each of {jobs} jobs runs one method on one task of {plan}; when all are done, the last line of this text writes the record:
#   job=$(sbatch --parsable SCRIPT) && sbatch --dependency=afterok:$job --wrap {whole}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={name}-%a.out
#SBATCH --open-mode=append
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem=64G{gpu}
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# A job whose time is over goes back into the queue, and its runs go on where they stopped.
trap 'kill -TERM $child; wait $child; scontrol requeue ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID' TERM
{command} --share "$SLURM_ARRAY_TASK_ID/{jobs}" & child=$!
wait $child
"""


def array_script(plan: Plan, path: Path, out: Path, record: Path, workers: int = 1) -> str:
    """A script for `sbatch`, to be submitted where the command would be run.

    Memory and time are a guess: change them in it. More jobs than there are methods on tasks would have nothing to do.

    Args:
        plan: what to run.
        path: of its file.
        out, record, workers: as for `zolab.studies.run.run_study`.
    """
    runs = [(task, own) for task in plan.tasks for own in planned(plan, task).values()]
    devices = {configuration(plan.settings(task, variants(own)[0], 1e-6, plan.seeds[0])).device for task, own in runs}
    words = [sys.executable, "-m", "zolab", "study", str(path), "--out", str(out), "--record", str(record)]
    command = shlex.join([*words, *(["--workers", str(workers)] if workers > 1 else [])])
    return SCRIPT.format(
        plan=path.name,
        jobs=len(runs),
        last=len(runs) - 1,
        name=re.sub(r"[^\w.-]", "-", f"zolab-{path.stem}"),
        cpus=max(8, workers),
        gpu="\n#SBATCH --gres=gpu:1" if any(device.startswith("cuda") for device in devices) else "",
        command=command,
        whole=shlex.quote(command),
    )
