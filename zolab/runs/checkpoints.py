"""Trained weights of a run: `weights-STEP.safetensors` files that appear whole or not at all, and know their run."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zolab.records.sealed import read_metadata, read_tensors, write_tensors


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: an existing folder.
        run: names the run, None one that is older than such names. Checkpoints of any other are not seen, and replaced.
    """

    def __init__(self, folder: Path, run: str | None):
        self.folder, self.run = folder, run

    def steps(self) -> list[int]:
        """Steps that have a checkpoint of this run, in order. Raises ValueError if one is damaged."""
        return sorted(step for step in self._all() if self._is_ours(step))

    def path(self, step: int) -> Path:
        return self.folder / f"weights-{step}.safetensors"

    def save(self, weights: Mapping[str, Tensor], step: int, best_step: int) -> None:
        """Save the weights of a step; keep with it only the newest checkpoint from which the best step can be replayed.

        Args:
            weights: of `trained`.
            step: of the weights.
            best_step: the best one so far.

        Raises:
            OSError: the file could not be written; earlier checkpoints are intact.
        """
        if self.path(step).exists() and self._is_ours(step):
            return
        write_tensors(weights, self.path(step), {"run": self.run, "step": step})
        keep = {step, max((at for at in self.steps() if at <= best_step), default=step)}
        for at in self._all():
            if at not in keep:
                self.path(at).unlink()

    def load(self, model: nn.Module, step: int) -> None:
        """Put the weights of a step into the model. Raises ValueError if the file is damaged, or of another model."""
        weights = self.read(model, step)
        for name, parameter in trained(model).items():
            parameter.data.copy_(weights[name])

    def read(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        """The weights of a step, of the model's names and shapes; ValueError as of `load`."""
        path = self.path(step)
        try:
            weights, _ = read_tensors(path)
            wrong = [name for name, parameter in trained(model).items() if weights[name].shape != parameter.shape]
            if wrong:
                raise ValueError(f"{wrong[0]} has another shape")
            return weights
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and its steps are replayed from the log.") from error

    def discard(self) -> None:
        for step in self._all():
            self.path(step).unlink()

    def check_space(self, model: nn.Module) -> None:
        """Raise OSError unless the folder has room for the three checkpoints that can be there at a time."""
        needed = 3 * sum(weight.nbytes for weight in trained(model).values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder} has {free / 1e9:.1f} GB free and checkpoints need {needed / 1e9:.1f} GB; free some space or "
                "choose another folder; zeroth-order runs with checkpoint_every 0 rely on their log alone."
            )

    def _all(self) -> list[int]:
        numbers = (path.stem.removeprefix("weights-") for path in self.folder.glob("weights-*.safetensors"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _is_ours(self, step: int) -> bool:
        try:
            known = read_metadata(self.path(step))
        except ValueError as error:
            raise ValueError(f"{error} Delete it, and its steps are replayed from the log.") from error
        return known.get("run") == self.run and known.get("step", step) == step


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What a run changes of a model, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
