"""The exercises of the notebooks and what judges them, by the notebook's number.

A judge measures: no right answer is written down here. Solutions that reach every goal are in `notebooks/solutions/`.
"""

from zolab.widgets.exercises.blocks import BLOCKS
from zolab.widgets.exercises.cost import COST
from zolab.widgets.exercises.evidence import EVIDENCE
from zolab.widgets.exercises.field import FIELD
from zolab.widgets.exercises.first import FIRST
from zolab.widgets.exercises.machines import MACHINES
from zolab.widgets.exercises.networks import NETS
from zolab.widgets.exercises.precision import PRECISION
from zolab.widgets.exercises.tasks import TASKS

EXERCISES = {**FIRST, **FIELD, **TASKS, **BLOCKS, **NETS, **EVIDENCE, **COST, **PRECISION, **MACHINES}
