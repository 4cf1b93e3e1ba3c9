"""What an optimizer did, in some 25 bytes a step: enough to rebuild the fine-tuned weights from the base model.

Directions are regenerated from (seed, step, sample), so a step is remembered by its projected gradients and the
hyperparameters in force. This is the storage trick of MeZO (arXiv 2305.17333, section 2.1), made exact: since a probe
leaves no rounding behind, replaying gives the same bits as the run, without a single forward pass.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zolab.optim.archive import pack, unpack
from zolab.records.files import parse_json, read_bytes, write_atomically

KINDS = {
    "method": (str,),
    "seed": (int,),
    "eps": (int, float),
    "samples": (int,),
    "settings": (dict,),
    "parameters": (list, type(None)),
    "overwritten": (int, type(None)),
}
"""What a header holds, by type."""


class StepRecord(NamedTuple):
    """One optimizer step.

    Args:
        step: number of the step, from 0.
        projected_grads: the slope along each direction that was probed, in loss per unit length along z: of a sample, as
            `Method.measure` has it.
        lrs: learning rate of each parameter group.
        weight_decays: weight decay of each parameter group.
        sigmas: what the method chose about its scales, empty if nothing.
        losses: of each sample on each side that was probed, then at the weights themselves if the method uses that.
    """

    step: int
    projected_grads: tuple[float, ...]
    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    sigmas: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    def decays(self, groups: Sequence[int]) -> list[float]:
        """What decoupled weight decay multiplies each tensor by, given the tensors' groups."""
        return [1 - self.lrs[g] * self.weight_decays[g] for g in groups]


@dataclass
class Trajectory:
    """The steps of one run and what is needed to regenerate their directions.

    Args:
        method: class name of the optimizer.
        seed: seed of its directions.
        eps: finite-difference radius at first; HiZOO's curvature depends on it.
        samples: directions a step.
        settings: the method's other hyperparameters.
        records: the steps, in order.
        parameters: what the run was given, as `zolab.optim.parameters.layout` has it; None in files that are older.
        overwritten: the step before which something else changed the weights, so that the steps no longer give them.
    """

    method: str
    seed: int
    eps: float
    samples: int
    settings: dict[str, Any] = field(default_factory=dict)
    records: list[StepRecord] = field(default_factory=list)
    parameters: list[list[Any]] | None = None
    overwritten: int | None = None

    def header(self) -> dict[str, Any]:
        """Everything but the records."""
        return {name: value for name, value in vars(self).items() if name != "records"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The records as arrays, one row a step; shorter rows end with NaN."""
        steps, *columns = list(zip(*self.records, strict=True)) or [[]] * len(StepRecord._fields)
        return dict(zip(StepRecord._fields, (np.array(steps), *map(_table, columns)), strict=True))

    @staticmethod
    def records_from(arrays: dict[str, np.ndarray]) -> list[StepRecord]:
        missing = [()] * len(arrays["step"])  # by files that are older than the field
        rows = zip(*(np.asarray(arrays.get(name, missing)).tolist() for name in StepRecord._fields), strict=True)
        return [StepRecord(int(step), *(tuple(x for x in values if x == x) for values in rest)) for step, *rest in rows]

    def check_complete(self) -> None:
        """Raise ValueError if the steps do not give the weights, since something else changed them."""
        if self.overwritten is not None:
            raise ValueError(
                f"the weights were changed by something else before step {self.overwritten}, so that this trajectory does not "
                "give them; save the weights themselves."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write a compressed .npz file of some 25 bytes a step, for a slope and two losses; it appears whole or not at all.

        Raises:
            ValueError: as `check_complete` does.
            OSError: it could not be written; an earlier file is intact.
        """
        self.check_complete()
        write_atomically(path, pack({"header": np.array(json.dumps(self.header())), **self.arrays()}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Trajectory":
        """Read a file written by `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not one, or was changed after it was written.
        """
        content = read_bytes(path)
        try:
            arrays = unpack(content)
            header = parse_json(str(arrays.pop("header")).encode())
            return cls._from(header, arrays)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)[:200]
            raise ValueError(
                f"{path} is not a trajectory file, or is damaged ({reason}); delete it, and the run's command makes it again."
            ) from error

    @classmethod
    def _from(cls, header: Any, arrays: dict[str, np.ndarray]) -> "Trajectory":
        if not isinstance(header, dict) or not all(type(header.get(name)) in kinds for name, kinds in KINDS.items()):
            raise ValueError("its header is not that of a trajectory")
        for entry in header.get("parameters") or []:
            if not isinstance(entry, list) or list(map(type, entry)) != [int, str, int, bool]:
                raise ValueError("its parameters are not described as they should be")
        if not set(StepRecord._fields[:4]) <= arrays.keys() <= set(StepRecord._fields):
            raise ValueError("its columns are not those of a trajectory")
        if arrays["step"].ndim != 1 or not all(
            array.ndim == 2 or array.shape == (0,) for name, array in arrays.items() if name != "step"
        ):
            raise ValueError("its columns do not have the form of steps")
        if not all(array.dtype.kind in "if" for array in arrays.values()):
            raise ValueError("its columns are not numbers")
        return cls(**header, records=cls.records_from(arrays))

    def extend(self, records: Iterable[StepRecord]) -> None:
        self.records.extend(records)


def _table(column: Sequence[tuple[float, ...]]) -> np.ndarray:
    width = max(map(len, column), default=0)
    return np.array([(*row, *[math.nan] * (width - len(row))) for row in column])
