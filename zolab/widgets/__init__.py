"""Slider panels, each a view of a pure function (`..._view`) that notebooks call plainly before they show the panel."""

from zolab.widgets.answers import Checked, check
from zolab.widgets.block_scales import block_scales_panel, block_scales_view
from zolab.widgets.bounds import bounds_panel, bounds_view
from zolab.widgets.budget import budget_panel, budget_view
from zolab.widgets.controls import choice, extremes, log_number, number, rates, several, switch, whole
from zolab.widgets.directions import directions_panel, directions_view
from zolab.widgets.division import division_panel, division_view
from zolab.widgets.exchange import exchange_panel, exchange_view
from zolab.widgets.gain import gain_panel, gain_view
from zolab.widgets.horizon import horizon_panel, horizon_view, mass_kept
from zolab.widgets.landscape import landscape_panel, landscape_view
from zolab.widgets.memory import memory_panel, memory_view
from zolab.widgets.panel import Level, Panel, View, explore
from zolab.widgets.precision import precision_panel, precision_view
from zolab.widgets.printed import printed_panel, printed_view
from zolab.widgets.step import losses_along, step_panel, step_view
from zolab.widgets.threshold import threshold_panel, threshold_view
from zolab.widgets.two_point import two_point_panel, two_point_view
from zolab.widgets.verdict import verdict_panel, verdict_view

PANELS = {
    "landscape": landscape_panel,
    "two_point": two_point_panel,
    "horizon": horizon_panel,
    "block_scales": block_scales_panel,
    "bounds": bounds_panel,
    "budget": budget_panel,
    "exchange": exchange_panel,
    "gain": gain_panel,
    "memory": memory_panel,
    "precision": precision_panel,
    "step": step_panel,
    "threshold": threshold_panel,
    "verdict": verdict_panel,
    "division": division_panel,
    "directions": directions_panel,
    "printed": printed_panel,
}

__all__ = [
    "PANELS",
    "Checked",
    "Level",
    "Panel",
    "View",
    "block_scales_panel",
    "block_scales_view",
    "bounds_panel",
    "bounds_view",
    "budget_panel",
    "budget_view",
    "check",
    "choice",
    "directions_panel",
    "directions_view",
    "division_panel",
    "division_view",
    "exchange_panel",
    "exchange_view",
    "explore",
    "extremes",
    "gain_panel",
    "gain_view",
    "horizon_panel",
    "horizon_view",
    "landscape_panel",
    "landscape_view",
    "log_number",
    "losses_along",
    "mass_kept",
    "memory_panel",
    "memory_view",
    "number",
    "precision_panel",
    "precision_view",
    "printed_panel",
    "printed_view",
    "rates",
    "several",
    "step_panel",
    "step_view",
    "switch",
    "threshold_panel",
    "threshold_view",
    "two_point_panel",
    "two_point_view",
    "verdict_panel",
    "verdict_view",
    "whole",
]
