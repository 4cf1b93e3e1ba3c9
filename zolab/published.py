"""Convert fine-tuners that the authors of ZO Fine-tuner released: pickled modules, read without running what a pickle can."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zolab.blocks import Blocks
from zolab.pertnn import FEATURES, PertNN

STORAGES = {"FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2")}
MODULES = (
    ("torch.nn.modules.container", "Sequential"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.activation", "Tanh"),
)


def llama_sizes(
    hidden: int = 2048,
    layers: int = 16,
    intermediate: int = 8192,
    heads: int = 32,
    kv_heads: int = 8,
    head_dim: int = 64,
    vocabulary: int = 128_256,
    tied: bool = True,
) -> dict[str, int]:
    """Weights of each tensor of a LLaMA model, from the numbers in its config.json; by default LLaMA-3.2-1B's."""
    query, key = hidden * heads * head_dim, hidden * kv_heads * head_dim
    attention = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}
    parts = {f"self_attn.{name}": size for name, size in attention.items()}
    parts |= {f"mlp.{name}": hidden * intermediate for name in ("gate_proj", "up_proj", "down_proj")}
    parts |= {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    sizes = {"model.embed_tokens.weight": vocabulary * hidden}
    sizes |= {f"model.layers.{layer}.{part}.weight": size for layer in range(layers) for part, size in parts.items()}
    return sizes | {"model.norm.weight": hidden} | ({} if tied else {"lm_head.weight": vocabulary * hidden})


def import_published(path: str | os.PathLike, sizes: Mapping[str, int], **options: Any) -> PertNN:
    """A released `.pth`: a dictionary from tensor names to Sequential(Linear(5, h), Tanh, Linear(h, 1)).

    Nothing of the file is executed: only tensors, ordered dictionaries, sets and stand-ins of the three module classes are
    made, and anything else that it asks for is refused.

    Args:
        path: the file.
        sizes: number of weights of each tensor, which the file does not tell; `llama_sizes`, or
            `{name: p.numel() for name, p in model.named_parameters()}`.
        options: `normalise` and `budget_weights`, as `PertNN` takes them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, is something else, asks for anything else, or has other names than `sizes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            networks = _Reader(archive).load()
        layers = {name: _layers(network) for name, network in networks.items()}
        stacked = {name: torch.stack([layer[name] for layer in layers.values()]) for name in ("w1", "b1", "w2", "b2")}
    except OSError:
        raise
    except Exception as error:  # a wrong opcode stream can raise anything; none of it may pass for a fine-tuner
        raise ValueError(f"{path} is not a released fine-tuner that can be imported: {error}.") from error
    if set(layers) != set(sizes):
        lacking, foreign = sorted(set(sizes) - set(layers)), sorted(set(layers) - set(sizes))
        told = f"no network for {len(lacking)} of sizes {lacking[:3]}, and {len(foreign)} networks without one {foreign[:3]}"
        raise ValueError(f"{path} is for another model than sizes tells: it has {told}.")
    names, numels = tuple(layers), tuple(int(sizes[name]) for name in layers)
    pertnn = PertNN(Blocks(names, numels, names, tuple(range(len(names))), numels, {}), stacked["b1"].shape[1], **options)
    pertnn.load_state_dict(stacked)
    return pertnn


class _Reader(pickle.Unpickler):
    """An unpickler of torch's zip format that can make nothing but tensors and stand-ins."""

    def __init__(self, archive: zipfile.ZipFile):
        (index,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        self.archive, self.root = archive, index.removesuffix("data.pkl")
        order = self.root + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are not little-endian")
        super().__init__(archive.open(index))
        # Made afresh for each file, since a pickle may set attributes of what it is given. A stand-in only keeps its state.
        self.allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *values: _tensor(*values),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("__builtin__", "set"): set,
            ("builtins", "set"): set,
            **{("torch", storage): storage for storage in STORAGES},
            **{place: type(place[1], (), {}) for place in MODULES},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor or network of this kind needs")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in STORAGES or not str(key).isdecimal():
            raise pickle.UnpicklingError(f"it refers to {pid}, which is no storage of floats")
        dtype = STORAGES[storage]
        entry = self.archive.getinfo(f"{self.root}data/{key}")
        if entry.file_size != count * dtype.itemsize:
            wanted = f"{count} numbers need {count * dtype.itemsize} bytes"
            raise pickle.UnpicklingError(f"the storage {key} has {entry.file_size} bytes, but {wanted}")
        return np.frombuffer(self.archive.read(entry), dtype)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_: Any) -> Tensor:
    """A contiguous float32 tensor, which is all that these files hold."""
    count = int(np.prod(shape, dtype=np.int64))
    contiguous = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    if not isinstance(storage, np.ndarray) or tuple(stride) != contiguous or not 0 <= offset <= len(storage) - count:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} and stride {stride} does not lie in its storage")
    return torch.from_numpy(storage[offset : offset + count].astype(np.float32).reshape(shape))


def _layers(network: Any) -> dict[str, Tensor]:
    """The weights of a Sequential(Linear(5, h), Tanh, Linear(h, 1)), checked."""
    parts = list(network._modules.values())
    if [type(part).__name__ for part in (network, *parts)] != ["Sequential", "Linear", "Tanh", "Linear"]:
        raise ValueError("a network is not a Linear, a Tanh and a Linear")
    (w1, b1), (w2, b2) = ((part._parameters["weight"], part._parameters["bias"]) for part in parts[::2])
    hidden = w1.shape[0]
    if [tuple(w.shape) for w in (w1, b1, w2, b2)] != [(hidden, len(FEATURES)), (hidden,), (1, hidden), (1,)]:
        raise ValueError(f"a network has weights of shapes {[tuple(w.shape) for w in (w1, b1, w2, b2)]}")
    if not all(w.isfinite().all() for w in (w1, b1, w2, b2)):
        raise ValueError("a weight is not finite")
    return {"w1": w1, "b1": b1, "w2": w2[0], "b2": b2[0]}
