"""What users and files do to an optimizer: it goes on to the same bits, or refuses in one sentence before a weight moves."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from small import LOW_RANK, NUMBERS, equal, loss_of, network, weights
from torch import nn

from zolab import AdaMeZO, MeZO, MeZOAdam, Trajectory, ZOFineTuner, replay
from zolab.noise import GivenDirection
from zolab.optim import METHODS
from zolab.pertnn import PertNN
from zolab.probe.blocks import split

SETTINGS = {
    "mezo": {"lr": 1e-3},
    "mezo_momentum": {"lr": 3e-4},
    "mezo_adam": {"lr": 1e-3},
    "mezo_switch": {"lr": 1e-3, "lengths": [None, 0.01]},
    "adamezo": {"lr": 1e-3, "horizon": 3},
    "meazo": {"lr": 1e-3},
    "zo_adamu": {"lr": 1e-4, "phases": (3, 8, 12)},
    "zo_sign_sgd": {"lr": 1e-3, "sign": "estimate"},
    "hizoo": {"lr": 1e-3, "alpha": 1e-3},
    "lozo": {"lr": 1e-3, "interval": 4},
    "lozo_m": {"lr": 1e-3, "interval": 4},
    "fzoo": {"lr": 1e-3, "samples": 3},
    "mezo_svrg": {"lr": 1e-3, "q": 3},
    "forward_gradient": {"lr": 1e-3},
    "dizo": {"lr": 1e-3, "period": 4, "iterations": 2, "radius": 0.01},
    "helene": {"lr": 1e-3, "k": 3},
    "zo_finetuner": {"lr": 1e-3, "pertnn": PertNN(split(network()))},
}


def make(name, model, **settings):
    return METHODS[name](model.named_parameters(), **{**SETTINGS[name], **settings})


def steps(optimizer, model, count):
    for _ in range(count):
        optimizer.step(loss_of(model))


def frozen(dtype=torch.float32):
    model = network(dtype)
    model[0].weight.requires_grad_(False)
    return model


# --- what a trajectory fits


@pytest.mark.parametrize("name", NUMBERS)
def test_a_run_with_frozen_layers_is_replayed_on_the_bare_model(name, tmp_path):
    model, base = frozen(), network()
    pertnn = {"pertnn": PertNN(split(model))} if name == "zo_finetuner" else {}
    optimizer = make(name, model, **pertnn)
    steps(optimizer, model, 5)
    optimizer.trajectory.save(tmp_path / "t.npz")
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    assert not base[0].weight.requires_grad


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (nn.Linear(37, 51), "4 parameters there, 2 here"),
        (network(torch.bfloat16), "bfloat16"),
        (nn.Sequential(nn.Linear(37, 50), nn.Tanh(), nn.Linear(50, 3)), "1,850 weights"),
    ],
)
def test_a_trajectory_refuses_other_parameters(other, what):
    model, before = network(), weights(other)
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    with pytest.raises(ValueError, match=f"the run was given other parameters.*{what}"):
        replay(other, optimizer.trajectory)
    assert equal(before, weights(other))
    with pytest.raises(ValueError, match=f"this state belongs to other parameters.*{what}|parameter group"):
        MeZO(other.named_parameters(), lr=1e-3, rounding="nearest").load_state_dict(optimizer.state_dict())


def test_a_trajectory_refuses_other_groups():
    model = network()
    optimizer = MeZO([{"params": list(model[0].parameters()), "lr": 0.0}, {"params": list(model[2].parameters())}], lr=1e-3)
    steps(optimizer, model, 2)
    with pytest.raises(ValueError, match="group 1"):
        replay(network(), optimizer.trajectory)
    with pytest.raises(ValueError, match="the run had 2 parameter groups, and here are 1"):
        MeZO(network().parameters()).replay(optimizer.trajectory.records)


@pytest.mark.parametrize("name", NUMBERS)
def test_freezing_in_the_middle_of_a_run_is_refused(name):
    model = network()
    optimizer = make(name, model)
    steps(optimizer, model, 2)
    before = weights(model)
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0\.weight is trained .* there, frozen"):
        optimizer.step(loss_of(model))
    assert equal(before, weights(model))
    model[0].weight.requires_grad_(True)
    steps(optimizer, model, 1)
    base = network()
    replay(base, optimizer.trajectory)
    assert equal(weights(base), weights(model))


def test_a_state_is_not_loaded_where_something_else_is_frozen():
    model = frozen()
    optimizer = MeZO(model.parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    with pytest.raises(ValueError, match=r"this state belongs to other parameters.*frozen.*there, trained"):
        MeZO(network().parameters()).load_state_dict(optimizer.state_dict())


def test_trajectories_and_states_that_are_older_fit_as_before(tmp_path):
    model, base = network(torch.bfloat16), network(torch.bfloat16)
    optimizer = MeZO(model.parameters(), lr=1e-3, rounding="nearest")
    steps(optimizer, model, 3)
    header = {"method": "MeZO", "seed": 0, "eps": 1e-3, "samples": 1, "settings": {}}
    np.savez_compressed(tmp_path / "t.npz", header=np.array(json.dumps(header)), **optimizer.trajectory.arrays())
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    state = optimizer.state_dict()
    state["trajectory"] = {**header, "records": state["trajectory"]["records"]}
    again = MeZO(base.parameters())
    again.load_state_dict(state)
    steps(optimizer, model, 2)
    steps(again, base, 2)
    assert equal(weights(base), weights(model))


# --- weights that others change


def overwrite(model):
    with torch.no_grad():
        model[0].weight.mul_(0.5)


def overwrite_data(model):
    model[2].weight.data.zero_()


def replace_data(model):
    model[2].bias.data = torch.ones(3)


@pytest.mark.parametrize("change", [overwrite, overwrite_data, replace_data])
def test_weights_that_others_overwrite_are_noticed(change, tmp_path):
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    change(model)
    with pytest.warns(UserWarning, match="was changed by something else since the last step"):
        optimizer.step(loss_of(model))
    steps(optimizer, model, 2)
    assert optimizer.trajectory.overwritten == 2
    with pytest.raises(ValueError, match="changed by something else before step 2"):
        optimizer.trajectory.save(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="changed by something else before step 2"):
        replay(network(), optimizer.trajectory)
    assert not (tmp_path / "t.npz").exists()
    other = copy.deepcopy(model)
    again = MeZO(other.named_parameters())
    again.load_state_dict(optimizer.state_dict())  # the weights are the caller's to restore: a state holds
    steps(again, other, 1)
    steps(optimizer, model, 1)
    assert equal(weights(other), weights(model))
    assert again.trajectory.overwritten == 2


def test_weights_that_are_loaded_with_their_state_are_not_foreign():
    model = network()
    optimizer = MeZOAdam(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    steps(optimizer, model, 2)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    steps(optimizer, model, 1)
    assert optimizer.trajectory.overwritten is None


def test_another_dtype_in_the_middle_of_a_run_is_refused():
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 1)
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"float32, group 0.*there.*bfloat16"):
        optimizer.step(loss_of(model))


@pytest.mark.parametrize("way", ["in place", "through", "copies"])
@pytest.mark.parametrize("raises", [False, True])
def test_a_closure_that_gives_weights_other_memory_leaves_them_exactly(way, raises):
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=0.1)
    if way != "in place":
        optimizer.look_through(model, spare=None if way == "copies" else 0)
    steps(optimizer, model, 3)
    before, good = weights(model), loss_of(model)

    def offload():
        loss = good()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        if raises:
            raise KeyError("stop")
        return loss

    with pytest.raises(KeyError if raises else ValueError, match="stop" if raises else "other memory"):
        optimizer.step(offload)
    assert equal(before, weights(model))
    steps(optimizer, model, 2)
    base = network()
    replay(base, optimizer.trajectory)
    assert equal(weights(base), weights(model))


def test_parameters_that_overlap_in_part_are_refused():
    memory = torch.zeros(10)
    one, two = nn.Parameter(memory[:6]), nn.Parameter(memory[4:])
    with pytest.raises(ValueError, match="a and b share a part of their memory"):
        MeZO([("a", one), ("b", two)])
    with pytest.raises(ValueError, match="share a part"):
        MeZO([("a", nn.Parameter(memory.view(torch.bfloat16)[:10])), ("b", nn.Parameter(memory))])
    MeZO([("a", nn.Parameter(memory[:5])), ("b", nn.Parameter(memory[5:]))])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_kinds_of_numbers_that_cannot_be_moved_are_refused(dtype):
    with pytest.raises(ValueError, match=r"w is torch.*load the model in float32"):
        MeZO([("w", nn.Parameter(torch.ones(4).to(dtype)))])


def test_sparse_weights_are_refused_and_integers_left_alone():
    with pytest.raises(ValueError, match=r"w is torch.float32 .*sparse"):
        MeZO([("w", nn.Parameter(torch.eye(3).to_sparse()))])
    with pytest.raises(ValueError, match="nothing to train"):
        MeZO([("w", nn.Parameter(torch.arange(3), requires_grad=False))])


@pytest.mark.parametrize("kind", ["memmap", "from_file"])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_file_that_is_mapped_for_reading_is_refused(kind, tmp_path):
    path = tmp_path / "weights.bin"
    np.arange(3000, dtype=np.float32).tofile(path)
    mapped = torch.from_numpy(np.memmap(path, np.float32, mode="r"))
    w = nn.Parameter(mapped[1000:])
    if kind == "memmap":
        with pytest.raises(ValueError, match="w lies in memory that is only for reading"):
            MeZO([("w", w)])
    w = nn.Parameter(torch.from_file(str(path), shared=False, size=3000))
    MeZO([("w", w)], lr=1e-3).step(lambda: w.sum())
    assert np.array_equal(np.fromfile(path, np.float32), np.arange(3000))


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("lr", float("nan")), ("eps", 0.0), ("eps", 1e-50), ("weight_decay", -1)]
)
def test_a_setting_that_a_group_is_given_in_mid_run_is_checked(name, value):
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 1)
    before, old = weights(model), optimizer.param_groups[0][name]
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=name):
        optimizer.step(loss_of(model))
    assert equal(before, weights(model))
    optimizer.param_groups[0][name] = old
    steps(optimizer, model, 1)


@pytest.mark.parametrize("eps", [1e-50, 1e39])
def test_an_eps_that_float32_does_not_have_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be a positive number of float32"):
        MeZO(network().parameters(), eps=eps)


# --- groups, seeds, losses, copies


def test_parameters_may_be_added_before_the_first_step_only(tmp_path):
    model = network()
    first, second = list(model[0].parameters()), list(model[2].parameters())
    optimizer = MeZO(first, lr=1e-3)
    optimizer.add_param_group({"params": [*second, first[0]], "lr": 1e-2})
    assert len(optimizer.param_groups[1]["params"]) == 2
    for wrong, word in (({"eps": 1.0}, "eps must be the same"), ({"lr": -1.0}, "lr")):
        with pytest.raises(ValueError, match=word):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **wrong})
    with pytest.raises(ValueError, match="share a part"):
        optimizer.add_param_group({"params": [nn.Parameter(first[0].data.view(-1)[3:])]})
    assert len(optimizer.param_groups) == 2
    steps(optimizer, model, 2)
    with pytest.raises(ValueError, match="cannot be added after the first step"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    steps(optimizer, model, 1)
    optimizer.state_dict()
    optimizer.trajectory.save(tmp_path / "t.npz")
    base = network()
    groups = [{"params": list(base[0].parameters())}, {"params": list(base[2].parameters())}]
    replay(groups, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))


def test_parameters_cannot_be_added_beside_settings_for_each():
    model = network()
    optimizer = MeZO(model.parameters(), sigma=[1.0] * 4)
    with pytest.raises(ValueError, match="sigma must be 5"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    steps(optimizer, model, 1)


def test_numbers_of_numpy_are_numbers(tmp_path):
    model, twin = network(), network()
    seed, half = np.random.default_rng(0).integers(1000), np.float32(0.5)
    optimizer = AdaMeZO(model.parameters(), lr=1e-3, betas=(half, half), horizon=np.int64(3), seed=seed)
    other = AdaMeZO(twin.parameters(), lr=1e-3, betas=(0.5, 0.5), horizon=3, seed=int(seed))
    for kind in (np.float32, np.float64, np.array, lambda value: np.array([value]), torch.tensor):
        optimizer.step(lambda kind=kind: kind(float(loss_of(model)())))
        other.step(loss_of(twin))
    optimizer.trajectory.save(tmp_path / "t.npz")
    assert Trajectory.load(tmp_path / "t.npz") == optimizer.trajectory
    base = network()
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    assert optimizer.trajectory.seed == other.trajectory.seed
    for wrong in (1.5, "1", None):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            MeZO(model.parameters(), seed=wrong)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        optimizer.step(lambda: np.ones(2))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_to_the_same_bits(name, way):
    model = network()
    optimizer = make(name, model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    steps(optimizer, model, 4)
    scheduler.step()
    other, again = way((model, optimizer))
    steps(optimizer, model, 4)
    assert not equal(weights(other), weights(model))
    steps(again, other, 4)
    assert equal(weights(other), weights(model))
    assert again.trajectory == optimizer.trajectory


def test_torch_saves_an_optimizer_as_a_whole(tmp_path):
    model = network()
    optimizer = MeZOAdam(model.named_parameters(), lr=1e-3).look_through(model)
    steps(optimizer, model, 3)
    torch.save((model, optimizer), tmp_path / "both.pt")
    other, again = torch.load(tmp_path / "both.pt", weights_only=False)
    steps(optimizer, model, 3)
    steps(again, other, 3)
    assert equal(weights(other), weights(model))


def test_a_step_without_a_closure_says_what_it_needs():
    with pytest.raises(ValueError, match=r"needs a closure that returns the loss.*transformers\.Trainer"):
        MeZO(network().parameters()).step()


# --- steps that do nothing


def warned(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


def test_losses_that_never_differ_are_reported_once():
    model = network()
    optimizer = MeZO(model.parameters(), lr=1e-3, eps=1e-30)
    (message,) = warned(lambda: steps(optimizer, model, 30))
    assert message.startswith("the slope was zero in 10 steps in a row")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_that_move_nothing_are_reported_once(dtype):
    model = network(dtype)
    optimizer = MeZO(model.parameters(), lr=1e-20, eps=1e-2)
    (message,) = warned(lambda: steps(optimizer, model, 30))
    assert message.startswith("10 steps in a row moved none of")


def test_the_share_of_weights_that_rounding_keeps_still_is_reported():
    model = network(torch.bfloat16)
    optimizer = MeZO(model.parameters(), lr=1e-5, eps=1e-2, rounding="nearest")
    (message,) = warned(lambda: steps(optimizer, model, 40))
    assert "of the last step arrived in the half-precision weights" in message
    assert "rounding='stochastic'" in message


@pytest.mark.parametrize("settings", [{"lr": 1e-3}, {"lr": 0.0}, {"lr": 1e-3, "sigma": [0.0, 0.0, 0.0, 1.0]}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_meant_to_stand_still_is_not_reported(settings, dtype):
    model = network(dtype)
    optimizer = MeZO(model.parameters(), eps=1e-2, **settings)
    assert not warned(lambda: steps(optimizer, model, 30))


# --- half precision, rounded without bias


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "forward_gradient"])  # which cannot be told losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_steps_arrive_in_half_precision(name, dtype):
    """The losses are told, so that every precision takes the same steps; each is a fraction of the weights' spacing."""
    sums = {}
    for kind, rounding in ((torch.float32, None), (dtype, None), (dtype, "nearest")):
        weight = nn.Parameter(torch.full((20_000,), 1.0, dtype=kind))
        settings = {**SETTINGS[name], "lr": 2e-5, "rounding": rounding}
        if name == "zo_finetuner":
            settings["pertnn"] = PertNN(split([("0", weight)]))
        if name == "mezo_switch":
            settings["lengths"] = [2e-3] * 20
        optimizer, stream = METHODS[name]([("0", weight)], **settings), torch.Generator().manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(20):
                optimizer.step(lambda stream=stream: 1 + 1e-3 * torch.randn((), generator=stream))
        sums[kind, rounding] = weight.detach().double() - 1
    expected, ours, nearest = sums.values()
    assert float((ours @ expected) / (expected @ expected)) == pytest.approx(1, abs=0.35)
    assert abs(float((nearest @ expected) / (expected @ expected))) < 0.3


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_both_roundings_are_replayed_and_resumed_to_the_bit(name, dtype, rounding, tmp_path):
    model, base, looked = network(dtype), network(dtype), network(dtype)
    settings = {"eps": 1e-2, "weight_decay": 0.1, "rounding": rounding}
    optimizer = make(name, model, **settings)
    through = make(name, looked, **settings).look_through(looked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few weights move
        steps(optimizer, model, 4)
        steps(through, looked, 4)
        assert name in LOW_RANK or equal(weights(looked), weights(model))
        optimizer.trajectory.save(tmp_path / "t.npz")
        again = replay(base, Trajectory.load(tmp_path / "t.npz"))
        assert equal(weights(base), weights(model))
        if isinstance(again, ZOFineTuner):
            again.attach(SETTINGS[name]["pertnn"])
        for group in again.param_groups:
            group.update({"lr": SETTINGS[name]["lr"], "weight_decay": 0.1})
        steps(again, base, 3)
        steps(optimizer, model, 3)
    assert again.rounding == rounding
    assert equal(weights(base), weights(model))


def test_single_precision_does_not_know_of_rounding():
    one, two = network(), network()
    for model, rounding in ((one, None), (two, "stochastic")):
        steps(MeZO(model.parameters(), lr=1e-3, rounding=rounding), model, 3)
    assert equal(weights(one), weights(two))
    assert "rounding" not in MeZO(one.parameters()).trajectory.settings
    with pytest.raises(ValueError, match="rounding must be one of nearest, stochastic"):
        MeZO(one.parameters(), rounding="up")


# --- files


def test_every_flipped_bit_of_a_trajectory_is_noticed(tmp_path):
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    steps(optimizer, model, 5)
    path = tmp_path / "t.npz"
    optimizer.trajectory.save(path)
    content = path.read_bytes()
    assert Trajectory.load(path) == optimizer.trajectory
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"t\.npz is not a trajectory file, or is damaged"):
            Trajectory.load(path)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a trajectory file"):
            Trajectory.load(path)


def test_flipped_bits_of_an_older_trajectory_give_one_sentence_or_the_same(tmp_path):
    records = {
        "step": np.arange(9),
        "projected_grads": np.ones((9, 1)),
        "lrs": np.ones((9, 1)),
        "weight_decays": np.zeros((9, 1)),
    }
    header = json.dumps({"method": "MeZO", "seed": 0, "eps": 1e-3, "samples": 1, "settings": {}})
    path = tmp_path / "t.npz"
    np.savez_compressed(path, header=np.array(header), **records)
    content, whole = path.read_bytes(), Trajectory.load(path)
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert Trajectory.load(path) == whole
        except ValueError as error:
            assert str(error).count("t.npz is not a trajectory file") == 1  # noqa: PT017


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "null",
        '{"method": "MeZO"}',
        '{"method": "MeZO", "seed": 0, "eps": NaN, "samples": 1, "settings": {}}',
        '{"method": "MeZO", "seed": "0", "eps": 1, "samples": 1, "settings": {}}',
        '{"method": "MeZO", "seed": 0, "eps": 1, "samples": 1, "settings": {}, "parameters": [3]}',
        '{"method": "MeZO", "seed": 0, "eps": 1, "samples": 1, "settings": {}, "surprise": 3}',
        "[" * 100_000,
    ],
)
def test_headers_that_are_none_are_refused(header, tmp_path):
    arrays = {
        "step": np.arange(1),
        "projected_grads": np.ones((1, 1)),
        "lrs": np.ones((1, 1)),
        "weight_decays": np.ones((1, 1)),
    }
    np.savez_compressed(tmp_path / "t.npz", header=np.array(header), **arrays)
    with pytest.raises(ValueError, match="not a trajectory file"):
        Trajectory.load(tmp_path / "t.npz")


def test_sizes_that_a_file_claims_are_checked_before_anything_is_made(tmp_path):
    path = tmp_path / "t.npz"
    np.savez_compressed(path, header=np.array("{}"), step=np.zeros(25_000_000))  # 200 MB in 200 kB
    with pytest.raises(ValueError, match="claims more content"):
        Trajectory.load(path)
    with pytest.raises(OSError):
        Trajectory.load(tmp_path)


def test_settings_that_no_method_has_are_refused():
    with pytest.raises(ValueError, match="settings do not fit MeZO"):
        replay(network(), Trajectory("MeZO", 0, 1e-3, 1, {"surprise": 1}))


# --- what was wrong once


def test_a_trajectory_with_a_gap_moves_nothing_and_freezes_nothing():
    model, base = frozen(), network()
    optimizer = make("mezo", model)
    steps(optimizer, model, 4)
    before = weights(base)
    del optimizer.trajectory.records[2]
    with pytest.raises(ValueError, match="the next step to replay is 2, but the record is of step 3"):
        replay(base, optimizer.trajectory)
    assert equal(weights(base), before)
    assert all(p.requires_grad for p in base.parameters())


@pytest.mark.parametrize("name", ["fzoo", "hizoo"])
def test_records_without_the_losses_that_a_method_needs_move_nothing(name):
    model, base = network(), network()
    optimizer = make(name, model)
    steps(optimizer, model, 2)
    optimizer.trajectory.records[1] = optimizer.trajectory.records[1]._replace(losses=())
    before = weights(base)
    with pytest.raises(ValueError, match="step 1 was recorded without"):
        replay(base, optimizer.trajectory)
    assert equal(weights(base), before)


def test_decay_that_float32_cannot_express_is_said_and_float64_has_it():
    (message,) = warned(lambda: MeZO([nn.Parameter(torch.ones(2))], lr=1e-6, weight_decay=0.01))
    assert message.startswith("weight_decay 0.01 at lr 1e-06 has no effect")
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = MeZO([weight], lr=1e-6, weight_decay=0.01)
    assert not warned(lambda: [optimizer.step(lambda: 0.0) for _ in range(5)])
    assert weight.detach().numpy() == pytest.approx((1 - 1e-8) ** 5, abs=1e-15)


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("size", [1, 200])
def test_a_prescribed_direction_has_a_value_for_each_weight(size, through):
    model = nn.Linear(10, 10, bias=False)
    optimizer, before = MeZO(model.parameters(), lr=1e-3).look_through(model if through else None), weights(model)
    optimizer.direction = lambda step, sample=0: GivenDirection([torch.ones(size)])
    with pytest.raises(ValueError, match=f"the direction has {size} values for block 0, which has 100 weights"):
        optimizer.step(lambda: model(torch.ones(10)).sum())
    assert equal(weights(model), before)


@pytest.mark.parametrize("spare", [0, None])
def test_an_embedding_that_is_a_transposed_head_is_looked_through(spare):
    def losses(through):
        torch.manual_seed(0)
        head, embedding = nn.Linear(300, 64, bias=False), nn.Embedding(300, 64)
        embedding.weight = nn.Parameter(head.weight.t())
        model, rows, one_hot = nn.ModuleList([head, embedding]), torch.tensor([3, 7]), torch.eye(300)[[3, 7]]
        optimizer = MeZO(model.parameters(), lr=1e-3, seed=1)
        if through:
            optimizer.look_through(model, spare)
        return [optimizer.step(lambda: (head(one_hot) * embedding(rows)).sum()) for _ in range(3)]

    assert losses(through=True) == pytest.approx(losses(through=False), rel=1e-5)


def test_half_precision_that_joins_later_is_rounded_as_if_it_had_been_there():
    optimizer = MeZO([nn.Parameter(torch.ones(2))])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]})
    assert optimizer.rounding == "stochastic"
    asked = MeZO([nn.Parameter(torch.ones(2))], rounding="nearest")
    asked.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]})
    assert asked.rounding == "nearest"


def test_two_optimizers_share_nothing_after_one_loads_the_others_state():
    model, other = network(torch.bfloat16), network(torch.bfloat16)
    optimizer, second = make("mezo", model), make("mezo", other)
    steps(optimizer, model, 2)
    second.load_state_dict(optimizer.state_dict())
    second.rounding = "nearest"
    assert optimizer.rounding == "stochastic"


@pytest.mark.parametrize("name", ["mezo_momentum", "mezo_adam", "helene", "lozo_m"])
def test_a_slope_beyond_float32_moves_neither_weights_nor_state(name):
    model = network()
    optimizer, before, sides = make(name, model, lr=1e-30), weights(model), iter([3e35, -3e35])
    with pytest.raises(FloatingPointError, match=r"step 0: the slope 3.0e\+38 is too large for state in float32"):
        optimizer.step(lambda: next(sides))
    assert equal(weights(model), before)
    assert not optimizer.trajectory.records
    steps(optimizer, model, 2)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["mezo_svrg", "dizo"])
def test_the_state_of_a_method_without_an_anchor_is_refused_by_name(name):
    model = network()
    with pytest.raises(ValueError, match="this state belongs to MeZO, not to"):
        make(name, model).load_state_dict(make("mezo", model).state_dict())


@pytest.mark.parametrize(("sigma", "got"), [([1.0], "got 1 numbers"), ([1.0, -1.0], "got -1.0 among them")])
def test_what_sigma_was_given_is_said(sigma, got):
    with pytest.raises(ValueError, match=got):
        MeZO([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))], sigma=sigma)
