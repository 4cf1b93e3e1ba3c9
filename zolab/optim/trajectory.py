"""What an optimizer did, in a few bytes a step: enough to rebuild the fine-tuned weights from the base model.

Directions are regenerated from (seed, step, sample), so a step is remembered by its projected gradients and the
hyperparameters in force. This is the storage trick of MeZO (arXiv 2305.17333, section 2.1), made exact: since a probe
leaves no rounding behind, replaying gives the same bits as the run, without a single forward pass.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from zolab.records.files import write_atomically


class StepRecord(NamedTuple):
    """One optimizer step.

    Args:
        step: number of the step, from 0.
        projected_grads: (loss_plus - loss_minus) / (2 eps) of each sample, in loss per unit length along z.
        lrs: learning rate of each parameter group.
        weight_decays: weight decay of each parameter group.
        sigmas: what the method chose about its scales, empty if nothing.
        losses: loss_plus and loss_minus of each sample.
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
        eps: finite-difference radius, for information.
        samples: directions a step.
        settings: the method's other hyperparameters.
        records: the steps, in order.
    """

    method: str
    seed: int
    eps: float
    samples: int
    settings: dict[str, Any] = field(default_factory=dict)
    records: list[StepRecord] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """Everything but the records."""
        return {name: value for name, value in vars(self).items() if name != "records"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The records as arrays, one row a step."""
        columns = list(zip(*self.records, strict=True)) or [[]] * len(StepRecord._fields)
        return dict(zip(StepRecord._fields, (np.array(column) for column in columns), strict=True))

    @staticmethod
    def records_from(arrays: dict[str, np.ndarray]) -> list[StepRecord]:
        missing = [()] * len(arrays["step"])  # by files that are older than the field
        rows = zip(*(np.asarray(arrays.get(name, missing)).tolist() for name in StepRecord._fields), strict=True)
        return [StepRecord(int(step), *(tuple(values) for values in rest)) for step, *rest in rows]

    def save(self, path: str | os.PathLike) -> None:
        """Write a compressed .npz file, about ten bytes a step; the file appears whole or not at all."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"header": np.array(json.dumps(self.header())), **self.arrays()}
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Trajectory":
        """Read a file written by `save`. Raises ValueError if it is not one."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(**json.loads(str(arrays["header"])), records=cls.records_from(arrays))
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a trajectory file, or is damaged ({error}); delete it, and the run's command makes it again."
            ) from error

    def extend(self, records: Iterable[StepRecord]) -> None:
        self.records.extend(records)
