"""What of a model a run trains: all of its weights, or an adapter, which is saved with the run."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zolab.models import ADAPTER_FILES, adapter_digest, fit_length, kept_model, model_bytes, save_adapter, trained_weights
from zolab.models.adapters import base_parameters
from zolab.models.quantised import plain_tensors
from zolab.runs.config import Config, make_adapter

FOLDER = "adapter"  # in that of the run
OFFSETS = "offsets.json"  # of a calibrated run: in its folder, that of its adapter, and that of its replayed model


def load_tuned(config: Config) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a configuration as its run begins: with the adapter that it asks for, whose weights alone are trained.

    Raises:
        ValueError: the adapter does not fit the model; or as `kept_model` and `make_adapter`.
        OSError, RuntimeError: as `kept_model`.
    """
    adapter = make_adapter(config)
    model, tokenizer = kept_model(config.model, config.dtype, config.device, config.quantise)
    if adapter:
        adapter.attach(model, config.seed)
        fit_length(tokenizer, model)
    return model, tokenizer


def weight_numbers(model: PreTrainedModel) -> dict[str, Any]:
    """What a model with its adapter holds, for a log: trained weights, bytes of all weights, bits of a mean base weight."""
    base = [parameter for _, parameter in base_parameters(model)]
    stored = sum(tensor.nbytes for parameter in base for tensor in plain_tensors(parameter))
    bits = 8 * stored / sum(parameter.numel() for parameter in base)
    return {"trained": trained_weights(model), "weights_bytes": model_bytes(model), "base_bits": round(bits, 3)}


def keep_adapter(model: PreTrainedModel, run: Path, base: str) -> None:
    """Save a model's adapter, if it has one, in the folder of its run, unless it is there already.

    Args:
        model: at the step that the run keeps.
        run: its folder.
        base: what the base model is called.
    """
    if adapter_digest(model) and not all((run / FOLDER / name).exists() for name in ADAPTER_FILES):
        save_adapter(model, run / FOLDER, base)


KEPT = (*(f"{FOLDER}/{name}" for name in (*ADAPTER_FILES, OFFSETS)), "trajectory.npz", "record.json", OFFSETS)
"""Files of a finished run, beside its log and its checkpoints."""


def kept(run: Path) -> list[str]:
    """Which of `KEPT` are in a folder."""
    return [name for name in KEPT if (run / name).exists()]


def discard(run: Path) -> None:
    """Remove what an earlier run left in a folder, beside its log and its checkpoints."""
    for name in kept(run):  # one by one: the folder may hold more
        (run / name).unlink(missing_ok=True)
