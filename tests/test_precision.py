"""What number formats do to a step: formulas against torch's own rounding, and the panel's goal."""

import numpy as np
import pytest
import torch

from zolab.noise import Direction, store_
from zolab.theory.precision import arriving, moving, rounding_noise, spacing
from zolab.widgets import precision_view
from zolab.widgets.precision import shares

FORMATS = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_spacing_leads_to_the_next_number(dtype):
    w = torch.cat([0.05 * torch.randn(5000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1e-7, 1.0, 0.5])])
    w = w.to(dtype)
    following = torch.nextafter(w.abs(), torch.full_like(w, np.inf))
    assert torch.equal(spacing(w, dtype), following.double() - w.abs().double())


@pytest.mark.parametrize("dtype", FORMATS[:2])
@pytest.mark.parametrize("step", [1e-6, 1e-5, 5e-5, 1e-3])
def test_the_noise_of_rounding_at_random(dtype, step):
    stream = torch.Generator().manual_seed(1)
    w = (0.05 * torch.randn(400_000, generator=stream)).to(dtype)
    meant = step * torch.randn(len(w), generator=stream)
    came = store_(w.clone(), w.float() + meant, Direction(0, 0).keys((0,))).double() - w.double()
    error, formula = (came - meant).square().mean(), rounding_noise(step, spacing(w, dtype)).mean()
    assert abs(float(error / formula) - 1) < (0.1 if step == 1e-6 else 0.03)  # few weights move


@pytest.mark.parametrize("dtype", FORMATS[:2])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("step", [1e-6, 1e-5, 5e-5, 1e-3])
def test_formulas_are_what_rounding_does(dtype, rounding, step):
    stream = torch.Generator().manual_seed(1)
    w = (0.05 * torch.randn(400_000, generator=stream)).to(dtype)
    z = torch.randn(len(w), generator=stream)
    expected = w.float() + step * z
    key = Direction(0, 0).keys((0,)) if rounding == "stochastic" else None
    now = store_(w.clone(), expected, key)
    came, meant, spaces = now.double() - w.double(), step * z.double(), spacing(w, dtype)
    moved = float(moving(step, spaces, rounding).mean())
    arrived = float(arriving(step, spaces).mean()) if rounding == "nearest" else 1.0
    error = float((came * meant).std()) / step**2 / len(w) ** 0.5
    assert float((came != 0).double().mean()) == pytest.approx(moved, abs=0.01)
    assert float((came * meant).mean()) / step**2 == pytest.approx(arrived, abs=0.02 + 5 * error)


def test_a_step_of_many_spacings_arrives_and_one_of_few_does_not():
    spaces = torch.ones(1, dtype=torch.float64)
    assert arriving(100.0, spaces) == 1
    assert arriving(1.51, spaces) == pytest.approx(float(arriving(1.49, spaces)), abs=1e-12)
    assert arriving(0.05, spaces) < 1e-20
    assert moving(0.05, spaces, "stochastic") == pytest.approx(0.05 * (2 / np.pi) ** 0.5)


def test_the_goal_of_the_panel_takes_another_rounding_or_a_finer_half():
    settings = ({}, {"lr": 1e-4}, {"rounding": "stochastic"}, {"rounding": "stochastic", "lr": 1e-7}, {"dtype": "float32"})
    assert [precision_view(**change).reached for change in settings] == [0, 1, 2, 3, 0]
    with pytest.raises(ValueError, match=r"lr must lie in \[1e-09, 0.001\], got 1"):
        precision_view(lr=1)
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, got 'int8'"):
        precision_view(dtype="int8")


def test_float32_loses_nothing_here():
    moved, arrived = shares("float32", "stochastic", (1e-6, 1e-5))
    assert (moved > 0.99).all()
    assert arrived == pytest.approx(1, abs=1e-3)
