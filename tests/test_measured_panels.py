"""Panels over what was measured: a loss along directions, a study's record, and times of an exchange."""

import numpy as np
import pytest
import torch

from zolab import MeZO
from zolab.studies.compare import beside
from zolab.studies.field import beside_at
from zolab.studies.outcomes import Record
from zolab.widgets import budget as budget_module
from zolab.widgets import budget_panel, budget_view, exchange_view, losses_along, step_panel, step_view
from zolab.widgets import exchange as exchange_module
from zolab.widgets import step as step_module


class TestStep:
    def small(self):
        torch.manual_seed(0)
        model, x = torch.nn.Linear(3, 2), torch.randn(5, 3)

        def loss():
            with torch.no_grad():
                return model(x).tanh().square().mean()

        return model, loss

    def test_the_slope_is_what_mezo_measures_and_the_step_ends_where_mezo_does(self):
        model, loss = self.small()
        losses = losses_along(model, loss, [7])
        before, eps, lr = float(loss()), 0.01, 0.05
        optimizer = MeZO(model.parameters(), lr=lr, eps=eps, seed=7)
        optimizer.step(loss)
        (measured,) = optimizer.trajectory.records[0].projected_grads
        assert np.isclose(step_module.slopes_of(losses, eps)[0], measured, rtol=1e-4)
        (change,) = step_module.changes_of(losses, eps, lr)
        assert np.isclose(change, float(loss()) - before, rtol=0.02)  # linear between measured places

    def test_measuring_moves_no_weight(self):
        model, loss = self.small()
        before = [weight.detach().clone() for weight in model.parameters()]
        losses = losses_along(model, loss, [0, 1])
        assert losses.shape == (2, len(step_module.PLACES))
        assert (losses[:, len(step_module.RADII)] == float(loss())).all()
        assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))

    @pytest.mark.parametrize("made", [step_module.drawn, lambda: losses_along(*TestStep().small(), range(4))])
    def test_the_goals_can_be_met_by_the_sliders(self, made):
        losses = made()
        assert any(step_view(losses, lr=lr).met for lr in step_module.TRIED[::2])

    def test_a_rate_too_high_rises_and_says_where_the_measured_part_ends(self):
        losses = step_module.drawn()
        assert step_view(losses, lr=1e-3).reached >= 1
        high = step_view(losses, lr=0.1)
        assert high.reached == 0
        assert "end beyond what was measured" in high.notes[0]
        assert step_panel(lr=0.1).goal.value.count("⚠") == 1

    @pytest.mark.parametrize("change", [{"direction": 10}, {"direction": -1}, {"eps": 0.0}, {"eps": 1.0}, {"lr": 1.0}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must lie in"):
            step_view(step_module.drawn(), **change)

    @pytest.mark.parametrize("losses", [np.zeros((2, 5)), np.zeros(43), np.full((2, 43), np.nan)])
    def test_bad_losses(self, losses):
        with pytest.raises(ValueError, match="losses must be finite, 43 for each direction"):
            step_view(losses)


class TestBudget:
    def test_at_the_end_a_method_stands_where_the_study_says(self):
        record = Record.load(budget_module.RECORD)
        for name in ("MeZO-momentum", "FZOO", "SGD"):
            (row,) = beside(record, name)
            pair = {name: budget_module._pair(budget_module.RECORD, "writer", name)}
            ((gap, word),) = beside_at(pair, 1000).values()
            assert np.isclose(gap.value, row.final.value)
            assert word == row.word

    def test_more_methods_make_it_harder(self):
        assert "DiZO -0.008 (lower)" in budget_view(("DiZO",), 400).now
        assert "DiZO -0.008 (undecided)" in budget_view(("DiZO", "FZOO", "HiZOO"), 400).now

    def test_the_goals(self):
        settings = [
            (("FZOO",), 100),
            (("Adam",), 100),
            (("SGD",), 100),
            (("HELENE",), 100),
            (("MEAZO",), 100),
            (("DiZO",), 400),
        ]
        assert [budget_view(*each).reached for each in settings] == [0, 2, 0, 1, 2, 3]
        assert budget_view(("Adam",), 300).reached == 2  # with backpropagation

    def test_two_records_do_not_mix(self, tmp_path):
        with pytest.raises(ValueError, match="no runs of Magic beside MeZO on writer"):
            budget_view(("Magic",))
        with pytest.raises(OSError, match="absent"):
            budget_view(record=tmp_path / "absent.json")

    @pytest.mark.parametrize("passes", [0, 49, 1001])
    def test_bad_budgets(self, passes):
        with pytest.raises(ValueError, match="passes must lie in"):
            budget_view(passes=passes)

    @pytest.mark.parametrize("methods", [(), ("SGD", "Adam", "LOZO", "FZOO", "DiZO")])
    def test_as_many_methods_as_colours(self, methods):
        with pytest.raises(ValueError, match=f"{len(methods)} methods are chosen; choose 1 to 4"):
            budget_view(methods)

    def test_too_many_are_said_in_the_panel(self):
        panel = budget_panel(methods=("SGD", "Adam", "LOZO", "FZOO"))
        with pytest.raises(ValueError, match="5 methods"):
            panel.controls["methods"].value = ("SGD", "Adam", "LOZO", "FZOO", "DiZO")
        assert "✗ 5 methods are chosen" in panel.goal.value


class TestExchange:
    def test_seconds_are_those_of_the_formula(self):
        gradients, losses = exchange_module.seconds(8.03e9, link=1000, latency=5, ranks=4)
        assert gradients.passes == pytest.approx(3 * 0.2466 / 2 / 4)
        assert losses.passes == pytest.approx(2 / 3 * gradients.passes)
        assert gradients.waiting == losses.waiting == pytest.approx(6 * 0.005)
        assert gradients.sending == pytest.approx(1.5 * 2 * 8.03e9 * 8 / 1e9)
        assert losses.sending == pytest.approx(6 * 8 * 8 / 1e9)

    def test_the_goals(self):
        settings = ({}, {"link": 1e4}, {"link": 1e3}, {"link": 1e4, "ranks": 32, "latency": 0.01, "model": "Llama-3.1-8B"})
        assert [exchange_view(**each).reached for each in settings] == [0, 1, 2, 3]
        assert exchange_view(link=10, worth=10).reached == 0

    @pytest.mark.parametrize("change", [{"link": 0.1}, {"latency": 0.0}, {"ranks": 1}, {"ranks": 65}, {"worth": 0.5}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must lie in"):
            exchange_view(**change)

    def test_bad_model(self):
        with pytest.raises(ValueError, match="model must be one of SmolLM2-135M, Llama"):
            exchange_view("GPT")
