"""PertNN, the networks that propose a scale for each block; their cards; and the released ones."""

from zolab.pertnn.network import BUDGETS, FEATURES, SHIPPED_FINETUNERS, PertNN, features, folder_of

__all__ = ["BUDGETS", "FEATURES", "SHIPPED_FINETUNERS", "PertNN", "features", "folder_of"]
