"""Adapters of the library peft in a model that stays what it is: a few trained weights beside frozen ones.

    LoRA: W x + (alpha / r) B A x, with B = 0 at first                                              (arXiv 2106.09685)
    prefix: keys and values of a few tokens before the text, in every layer                         (arXiv 2101.00190)

The model is changed in place and keeps its class, so that tasks, optimizers and probes take it as any other; adapter weights
are float32 in every dtype of the model, since a step must not be lost in their rounding.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

INSIDE = (".lora_A.default.", ".lora_B.default.")  # in the names of LoRA's weights
PREFIX = "prompt_encoder.embedding.weight"
FILE_PREFIX = "prompt_embeddings"  # what peft calls it in a file


@dataclass(frozen=True)
class LoRA:
    """Trained low-rank additions to some linear modules. MeZO takes r = 8, alpha = 16, eps = 1e-2 and lr from 5e-5 to 1e-4.

    A is drawn as peft draws it, uniformly within 1 / sqrt(columns), but from a generator of its own; B is zero. So the model
    computes at first what it did without.

    In a small model, at the lr that B needs, the random part of the steps soon hides A. A larger alpha prevents that: c times
    alpha, with lr / c**2 and eps / c, takes B the same way and A almost nowhere. SmolLM2-135M learns with alpha = 128,
    lr = 1e-4, eps = 1e-3 and all linear modules of its layers as targets.

    Args:
        r: rank, 1 to the smaller side of every target's weight.
        alpha: > 0; the addition is multiplied by alpha / r.
        targets: names of linear modules, or the ends of names, such as "q_proj"; by default those of peft for the model's
            family: queries and values, as in MeZO.

    Raises:
        ValueError: an argument is out of range.
    """

    r: int = 8
    alpha: float = 16
    targets: Sequence[str] | None = None

    def __post_init__(self):
        _check_whole("r", self.r)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number > 0, got {self.alpha!r}.")
        if self.targets is None:
            return
        listed = isinstance(self.targets, list | tuple) and self.targets
        if not listed or not all(isinstance(name, str) and name.strip(".") for name in self.targets):
            raise ValueError(f"targets must be a list of names of modules, such as ['q_proj', 'v_proj'], got {self.targets!r}.")
        object.__setattr__(self, "targets", tuple(self.targets))

    def attach(self, model: PreTrainedModel, seed: int = 0) -> None:
        """Put the adapter into a model and freeze everything else; the global random state is left alone.

        Args:
            model: without an adapter.
            seed: of A.

        Raises:
            ValueError: a target matches no module of the model, or one that LoRA is not for; r is larger than a weight
                allows; or the model has an adapter already. Nothing has changed then.
        """
        from peft import LoraConfig  # seconds, which only runs with an adapter wait

        _check_without(model)
        targets = tuple(sorted({*(self.targets or _usual_targets(model))}))  # peft keeps them as a set
        for name, module in _matched(model, targets).items():
            if self.r > min(module.weight.shape):
                shape = " x ".join(map(str, module.weight.shape))
                raise ValueError(f"r={self.r} exceeds the smaller side of {name}, a matrix of {shape}; lower r.")
        kind = "CAUSAL_LM" if model.can_generate() else None
        alpha: Any = self.alpha  # peft says int, and multiplies by any number
        config = LoraConfig(r=self.r, lora_alpha=alpha, target_modules=list(targets), task_type=kind)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft draws first weights, too
            warnings.filterwarnings("ignore", ".*get_apply_tensor_subclass")  # of a quantised base: it cannot be merged into
            model.add_adapter(config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            own = any(part in name for part in INSIDE)
            if own:
                first = torch.zeros(parameter.shape)
                if INSIDE[0] in name:
                    nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
                parameter.data = first.to(parameter.device)
            parameter.requires_grad_(own)
        model.train(model.training)  # the new modules, too
        vars(model)["adapter_settings"] = replace(self, targets=targets)


@dataclass(frozen=True)
class Prefix:
    """Trained keys and values before the text. MeZO takes 5 tokens, eps = 1e-1 and lr from 1e-3 to 1e-2.

    They begin as what the model itself makes of random tokens of its vocabulary, and are trained as they are, without a network
    that makes them, both as in MeZO. The text's positions begin after the prefix, as in peft; in MeZO's code for OPT they
    begin at zero again. Not for masked models, which keep no keys and values. The first values come from a forward pass: where
    the machine or the number of threads is another, their last bits may be others, and then a run is not gone on with.

    Args:
        tokens: length of the prefix, >= 1.

    Raises:
        ValueError: `tokens` is out of range.
    """

    tokens: int = 5

    def __post_init__(self):
        _check_whole("tokens", self.tokens)

    def attach(self, model: PreTrainedModel, seed: int = 0) -> None:
        """Put the adapter into a model and freeze everything else; the global random state is left alone.

        Args:
            model: a causal one, without an adapter.
            seed: of the tokens whose keys and values the prefix begins with.

        Raises:
            ValueError: the model cannot take a prefix, or has an adapter already. Nothing has changed then.
        """
        from peft import PrefixTuningConfig
        from peft.tuners.prefix_tuning import PrefixEncoder

        _check_without(model)
        first = self._first(model, seed)
        layers, (_, heads, _, width) = len(first) // 2, first[0].shape
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.tokens,
            num_layers=layers,
            num_attention_heads=heads,
            token_dim=heads * width,
            num_transformer_submodules=1,
        )
        with torch.random.fork_rng(devices=[]):
            encoder = PrefixEncoder(config)
        encoder.embedding.weight.data = torch.cat(first).float().permute(2, 0, 1, 3).reshape(self.tokens, -1).contiguous()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.add_module("prompt_encoder", encoder.train(model.training))
        vars(model)["peft_config"] = {"default": config}
        model.register_forward_pre_hook(_begin_with_prefix, with_kwargs=True)
        vars(model)["adapter_settings"] = self

    @torch.no_grad()
    def _first(self, model: PreTrainedModel, seed: int) -> list[Tensor]:
        """Keys, then values, of each layer, for random tokens: (1, heads, tokens, width)."""
        kind, context = type(model).__name__, getattr(model.config, "max_position_embeddings", math.inf)
        if not model.can_generate():
            raise ValueError(f"a prefix needs a causal language model, which {kind} is not; use lora.")
        if self.tokens >= context:
            raise ValueError(f"tokens={self.tokens} leave no room for a text in the {context} of {kind}; use fewer.")
        embedding: Any = model.get_input_embeddings()
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(len(embedding.weight), (1, self.tokens), generator=generator).to(embedding.weight.device)
        for _ in range(2):  # the first pass of a process may differ in the last bit while libraries set up
            cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
        layers: Any = getattr(cache, "layers", ())
        states: Any = [getattr(layer, side, None) for layer in layers for side in ("keys", "values")]
        shapes = {tuple(side.shape) if isinstance(side, Tensor) else None for side in states}
        shape = next(iter(shapes), None)
        if len(shapes) != 1 or shape is None or len(shape) != 4 or (shape[0], shape[2]) != (1, self.tokens):
            raise ValueError(f"{kind} cannot take a prefix: its layers keep no keys and values of one shape; use lora.")
        return states


Adapter = LoRA | Prefix
ADAPTERS: dict[str, type[Adapter]] = {"lora": LoRA, "prefix": Prefix}


def adapter_of(model: nn.Module) -> Adapter | None:
    """The adapter in a model, with the targets that it has found; None if there is none."""
    return getattr(model, "adapter_settings", None)


def prefix_length(model: nn.Module) -> int:
    """Number of tokens before every text of a model."""
    adapter = adapter_of(model)
    return adapter.tokens if isinstance(adapter, Prefix) else 0


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of a model as they are without its adapter."""
    inside = adapter_of(model) is not None
    for name, parameter in model.named_parameters():
        if not inside:
            yield name, parameter
        elif _name_in_file(name) is None:
            yield name.replace(".base_layer.", "."), parameter


def adapter_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of a model's adapter, by the names that they have in a file of peft; empty if there is none."""
    if adapter_of(model) is None:
        return {}
    parameters = ((_name_in_file(name), parameter) for name, parameter in model.named_parameters())
    return {name: parameter for name, parameter in parameters if name is not None}


def trained_weights(model: nn.Module) -> int:
    """Number of weights that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _name_in_file(name: str) -> str | None:
    """What peft calls an adapter's weight in a file; None for a weight of the base model."""
    if name == PREFIX:
        return FILE_PREFIX
    return f"base_model.model.{name.replace('.default.', '.')}" if any(part in name for part in INSIDE) else None


def _begin_with_prefix(model: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let a pass begin after the prefix: a hook of the model. A cache of an earlier pass has the prefix already."""
    inputs = dict(inputs)
    texts = (*args, inputs.get("input_ids"), inputs.get("inputs_embeds"))
    rows = next(len(text) for text in texts if text is not None)
    config, mask = model.peft_config["default"], inputs.get("attention_mask")
    if inputs.get("past_key_values") is None:
        inputs["past_key_values"] = DynamicCache(_keys_and_values(model, config, rows))
    if mask is not None:
        inputs["attention_mask"] = torch.cat([mask.new_ones(*mask.shape[:-1], config.num_virtual_tokens), mask], -1)
    if inputs.get("position_ids") is not None:
        inputs["position_ids"] = inputs["position_ids"] + config.num_virtual_tokens
    return args, inputs


def _keys_and_values(model: Any, config: Any, rows: int) -> list[tuple[Tensor, Tensor]]:
    """The prefix of each layer, for so many rows: keys and values of shape (rows, heads, tokens, width)."""
    encoder, tokens = model.prompt_encoder, config.num_virtual_tokens
    device = encoder.embedding.weight.device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else model.dtype
    states = encoder(torch.arange(tokens, device=device)).to(dtype)
    sides = states.view(tokens, 2 * config.num_layers, config.num_attention_heads, -1).permute(1, 2, 0, 3)
    sides = sides.unsqueeze(1).expand(-1, rows, -1, -1, -1)
    return [(sides[i], sides[i + 1]) for i in range(0, len(sides), 2)]


def _usual_targets(model: PreTrainedModel) -> tuple[str, ...]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    family = model.config.model_type
    if not isinstance(USUAL.get(family), list):
        raise ValueError(f"peft names no usual targets for {family!r}: name some yourself, {_linear(model)}.")
    return tuple(USUAL[family])


def _matched(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The modules that targets name, by their names. Raises ValueError if a target names none, or one that is not for LoRA."""
    matched: dict[str, nn.Linear] = {}
    holders = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            holders[id(parameter)].append(name)
    for target in targets:
        modules = {name: module for name, module in model.named_modules() if name == target or name.endswith(f".{target}")}
        if not modules:
            raise ValueError(f"targets: {target!r} matches no module of {type(model).__name__}; {_linear(model)}.")
        for name, module in modules.items():
            if type(module) is not nn.Linear or not module.weight.is_floating_point():
                kind = f"{type(module).__name__}, and LoRA is for linear modules that are not quantised, or by `load_model`"
                raise ValueError(f"targets: {name} is a {kind}; {_linear(model)}.")
            if others := [other for other in holders[id(module.weight)] if other != name]:
                raise ValueError(f"targets: {name} shares its weight with {others[0]}; leave it out, or untie them.")
            matched[name] = module
    return matched


def _linear(model: nn.Module) -> str:
    kinds = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is nn.Linear}
    return f"its linear modules are {', '.join(sorted(kinds))}"


def _check_without(model: PreTrainedModel) -> None:
    if adapter_of(model) is not None or hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already; load it again, without one.")


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
