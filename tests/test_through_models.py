"""Models as others make them, on both probes: DoRA, mixtures of experts, several devices, checkpoints, compiled parts."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import attach_align_device_hook
from small import equal, weights
from test_through import WAYS, agree, hooks, through
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig

from zolab import LOZO, MeZO
from zolab.models import offloaded_weights, tiny_model

IDS = torch.randint(3, 90, (4, 12), generator=torch.Generator().manual_seed(0))
OF_PEFT = "ignore:.*is_gradient_checkpointing:FutureWarning"


def loss_of(model):
    return lambda: functional.cross_entropy(model(input_ids=IDS).logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten())


def both(model, spare, steps=4, **settings):
    """The same steps on both probes: the same losses and weights, to the bit."""
    twin = copy.deepcopy(model)
    two = MeZO(twin.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, **settings})
    one, before, others = through(model, spare, **settings), weights(model), hooks(model)
    agree(one, two, loss_of(model), loss_of(twin), model, twin, steps)
    assert not equal(before, weights(model))
    assert hooks(model) == others
    return one


# --- adapters


@WAYS
@pytest.mark.filterwarnings(OF_PEFT)
@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16])
def test_dora(spare, model_dtype):
    """The magnitudes of a layer and the norm of what they multiply are made from weights that a probe has moved."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True, init_lora_weights=False)
        model = get_peft_model(tiny_model("llama").to(model_dtype), config).eval()
    kinds = {name.split("lora_")[1].split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert kinds == {"A", "B", "magnitude_vector"}
    optimizer = both(model, spare)
    moved = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(optimizer.viewed.tensors) == len(moved) == 2 * 2 * 3


# --- mixtures of experts


def mixture(config, **sizes):
    small = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config(**small, **sizes), dtype=torch.float32).eval()


@WAYS
@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MixtralConfig, {"num_local_experts": 16, "num_experts_per_tok": 1, "intermediate_size": 24}),
        (Qwen2MoeConfig, {"num_experts": 60, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "intermediate_size": 24}),
    ],
)
def test_mixtures_of_transformers(config, sizes, spare):
    both(mixture(config, **sizes), spare)


class Experts(nn.Module):
    """A mixture whose experts are modules of their own: each row of the input goes to one of them."""

    def __init__(self, count=6):
        super().__init__()
        torch.manual_seed(0)
        self.router = nn.Linear(8, count)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(count))
        self.half = False

    def forward(self, x):
        chosen, out = self.router(x).argmax(-1), torch.zeros_like(x)
        for number in chosen.unique().tolist():
            expert, rows = self.experts[number], chosen == number
            out[rows] = (expert[0] if self.half else expert)(x[rows])
        return out


def used(model, x):
    return set(model.router(x).argmax(-1).tolist())


@WAYS
def test_experts_that_no_token_is_sent_to_take_the_step_too(spare):
    model, x = Experts(), torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    twin, idle = copy.deepcopy(model), set(range(6)) - used(model, x)
    assert idle, "the batch is small enough"
    before = copy.deepcopy(model)
    one, two = through(model, spare), MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
    ours, theirs = (lambda: model(x).square().mean()), (lambda: twin(x).square().mean())
    agree(one, two, ours, theirs, model, twin, 12)
    for number in idle:
        assert not torch.equal(model.experts[number][0].weight, before.experts[number][0].weight)
    assert hooks(model) == 0


def test_an_expert_that_is_read_by_hand_is_named():
    """Nothing but the watch can tell that from one that is not read: so it never looks away."""
    model, x = Experts(), torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    idle = min(set(range(6)) - used(model, x))
    optimizer, by_hand = through(model), []

    def closure():
        more = model.experts[idle][2].weight.sum() if by_hand else 0.0
        return model(x).square().mean() + more

    for _ in range(3):
        optimizer.step(closure)
    by_hand.append(True)
    before = weights(model)
    with pytest.raises(ValueError, match=rf"experts\.{idle}\.2\.weight is read outside the call of its module"):
        optimizer.step(closure)
    assert equal(before, weights(model))


def test_half_an_expert_is_no_expert_that_was_passed_over():
    model, x = Experts(), torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    model.half, before = True, weights(model)
    assert used(model, x) == set(range(6))
    with pytest.raises(ValueError, match=r"no module that owns experts\.0\.2\.weight was called.*as none that owns 11 others"):
        through(model).step(lambda: model(x).square().mean())
    assert equal(before, weights(model))


def test_orders_that_are_remembered_are_not_ever_more(monkeypatch):
    monkeypatch.setattr("zolab.probe.through.ORDERS", 3)
    model, generator = Experts(), torch.Generator().manual_seed(1)
    optimizer = through(model)
    for _ in range(10):
        x = torch.randn(3, 8, generator=generator)
        optimizer.step(lambda x=x: model(x).square().mean())
        assert len(optimizer.viewed.watched) <= 3


# --- several devices


@WAYS
def test_hooks_that_bring_inputs_to_a_modules_device(spare):
    """What a device_map of accelerate puts around every module; here all devices are one."""
    model = tiny_model("llama")
    attach_align_device_hook(model, execution_device="cpu", offload=False)
    linear = model.model.layers[0].mlp.up_proj
    assert "forward" in vars(linear)
    around = linear.forward
    both(model, spare)
    assert linear.forward is around, "accelerate's own way to call it is still there"
    twin = tiny_model("llama")
    plain, lozo = (LOZO(m.named_parameters(), lr=1e-3, eps=1e-2) for m in (twin, model))
    with torch.no_grad():
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.copy_(q)
    for _ in range(2):
        assert lozo.look_through(model).step(loss_of(model)) == pytest.approx(plain.step(loss_of(twin)), rel=1e-4)


@pytest.mark.parametrize("to_disk", [False, True])
def test_weights_that_are_offloaded_are_refused(to_disk, tmp_path):
    model = tiny_model("llama")
    expected = loss_of(model)()
    if to_disk:
        disk_offload(model, tmp_path, execution_device="cpu")
    else:
        cpu_offload(model, execution_device="cpu")
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is on the meta device, where offloading .*offloaded_weights"):
        MeZO(model.named_parameters())
    if to_disk:
        with pytest.raises(ValueError, match=r"embed_tokens\.weight is on the disk, where no step can change it"):
            offloaded_weights(model)
    assert torch.equal(loss_of(model)(), expected)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", [MeZO, LOZO])
def test_weights_that_are_lent_layer_by_layer_take_the_steps_of_a_model_in_memory(method, tied):
    twin = tiny_model("llama")
    twin.config.tie_word_embeddings = tied
    if tied:
        twin.tie_weights()
    model = copy.deepcopy(twin)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    twin.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    cpu_offload(model, execution_device="cpu")
    assert all(p.device.type == "meta" for p in model.parameters())
    lent, own = offloaded_weights(model), dict(twin.named_parameters())
    assert [name for name, _ in lent] == list(own)
    one, two = method(lent, lr=1e-3, eps=1e-2), method(twin.named_parameters(), lr=1e-3, eps=1e-2)
    before = loss_of(model)()
    for _ in range(3):
        assert one.step(loss_of(model)) == two.step(loss_of(twin))
    assert all(torch.equal(weight, own[name]) for name, weight in lent)
    assert torch.equal(loss_of(model)(), loss_of(twin)())
    assert not torch.equal(loss_of(model)(), before)


def test_a_model_that_stays_in_memory_has_its_own_weights():
    model = tiny_model("llama")
    assert all(weight is p for (_, weight), p in zip(offloaded_weights(model), model.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"weight is on the meta device, and no hook of Accelerate's brings it"):
        offloaded_weights(nn.Linear(2, 2, device="meta"))


# --- checkpoints and compilers


CHECKPOINTS = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")


@WAYS
@CHECKPOINTS
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradient_checkpointing(reentrant, spare):
    model = tiny_model("llama")
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()  # else transformers does not checkpoint; there is no dropout
    calls = []
    model.model.layers[0]._gradient_checkpointing_func = _noting(calls, model.model.layers[0]._gradient_checkpointing_func)
    both(model, spare, steps=2)
    assert len(calls) == 2 * 2 * 2, "two steps of two passes on both probes"


def _noting(calls, checkpoint):
    def noted(*args, **settings):
        calls.append(args[0])
        return checkpoint(*args, **settings)

    return noted


@WAYS
@CHECKPOINTS
@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_closure_that_differentiates_a_language_model(checkpoints, spare):
    """On the way back each layer finds the weights that it had on the way forth; its norms keep those themselves, no view."""
    slopes = []
    for way in ("through", "in place"):
        model = tiny_model("llama")
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = through(model, spare, lr=0.0)
        if way == "in place":
            optimizer.look_through(None)
        gradients = []

        def closure(model=model, gradients=gradients):
            with torch.enable_grad():
                texts = model.get_input_embeddings()(IDS).detach().requires_grad_()
                loss = model(inputs_embeds=texts).logits.square().mean()
                gradients.append(torch.autograd.grad(loss, texts)[0])
            return loss.detach()

        optimizer.step(closure)
        slopes.append(gradients)
    assert len(slopes[0]) == 2
    assert equal(*slopes)


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_call_in_the_closure_is_refused():
    """The model itself is not compiled, but what the closure calls is."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    compiled, x = torch.compile(model, backend="eager"), torch.randn(4, 8)
    before, optimizer = weights(model), through(model)
    with pytest.raises(ValueError, match="the closure calls a compiled Linear, and compiled code does not ask"):
        optimizer.step(lambda: compiled(x).square().mean())
    assert equal(before, weights(model))
    assert hooks(model) == 0
    optimizer.step(lambda: model(x).square().mean())
