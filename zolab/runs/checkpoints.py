"""Saved weights of a run: `weights-STEP.safetensors` files that appear whole or not at all."""

import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from zolab.models import model_bytes
from zolab.records.files import replacing


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("weights-*.safetensors"))

    def path(self, step: int) -> Path:
        return self.folder / f"weights-{step}.safetensors"

    def save(self, model: nn.Module, step: int, best_step: int) -> None:
        """Save the weights of a step; keep with it only the newest checkpoint from which the best step can be replayed.

        Raises:
            OSError: the file could not be written; earlier checkpoints are intact.
        """
        if self.path(step).exists():
            return
        with replacing(self.path(step)) as temporary:
            save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, temporary)
        keep = {step, max((at for at in self.steps() if at <= best_step), default=step)}
        for at in self.steps():
            if at not in keep:
                self.path(at).unlink()

    def load(self, model: nn.Module, step: int) -> None:
        """Put the weights of a step into the model. Raises ValueError if the file is damaged."""
        path = self.path(step)
        try:
            weights = load_file(path)
            for name, parameter in model.named_parameters():
                parameter.data.copy_(weights[name])
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and its steps are replayed from the log.") from error

    def discard(self) -> None:
        for step in self.steps():
            self.path(step).unlink()

    def check_space(self, model: nn.Module) -> None:
        """Raise OSError unless the folder has room for the three checkpoints that can be there at a time."""
        needed, free = 3 * model_bytes(model), shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder} has {free / 1e9:.1f} GB free and checkpoints need {needed / 1e9:.1f} GB; free some space, "
                "choose another folder, or set checkpoint_every to 0 and rely on the log."
            )
