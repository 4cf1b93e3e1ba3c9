"""Content that tells when it was changed: a digest travels with it.

A sealed dictionary says so besides its "digest": one without either is older than the seal and passes, one that lost either of
them was changed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zolab.records.files import parse_json, replacing

SEALED = 1  # how
KEY = "zolab"  # of our text in the metadata of a safetensors file


def digest_of(content: Any) -> str:
    """32 hex digits of the SHA-256 of a JSON value, whatever its layout and the order of its keys."""
    plain = json.loads(json.dumps(content))  # keys are texts before they are sorted
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with `sealed` in front and its digest at the end."""
    sealed = {"sealed": SEALED, **content}
    return {**sealed, "digest": digest_of(sealed)}


def unseal(content: Any, what: str) -> dict[str, Any]:
    """What was sealed, without its seal.

    Args:
        content: of `seal`, or older than it.
        what: begins the sentence of the error, such as a path.

    Raises:
        ValueError: it is not a dictionary, or it was changed after it was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{what} is damaged: it is no JSON object.")
    marks = {"sealed", "digest"} & content.keys()
    inner = {key: value for key, value in content.items() if key != "digest"}
    if marks and (len(marks) < 2 or content["sealed"] != SEALED or content["digest"] != digest_of(inner)):
        raise ValueError(f"{what} was changed after it was written: its digest is that of other content; restore it.")
    inner.pop("sealed", None)
    return inner


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits of the SHA-256 over names, shapes, dtypes and bytes, one tensor at a time."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def write_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file whose metadata holds a digest of the tensors, whole or not at all.

    Args:
        tensors: by name; the values are written as they are.
        path: the file.
        metadata: JSON values that `read_tensors` gives back.

    Raises:
        OSError: it could not be written; an earlier file is intact.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = seal({**metadata, "tensors": tensors_digest(contiguous)})
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={KEY: json.dumps(sealed)})


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata of a file of `write_tensors`, and the digest of its tensors; empty if the file is older.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        if metadata is not None and KEY not in metadata:
            raise ValueError("its metadata is not ours")
        return unseal(parse_json(metadata[KEY].encode()), "its metadata") if metadata else {}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file of `write_tensors`, or of an older one without.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or its tensors are not those that were written.
    """
    metadata = read_metadata(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, RuntimeError) as error:  # such as a dtype that torch does not have
        raise ValueError(f"{path} is damaged ({error}).") from error
    if "tensors" in metadata and metadata.pop("tensors") != tensors_digest(tensors):
        raise ValueError(f"{path} is damaged: its weights are not those that were written.")
    return tensors, metadata
