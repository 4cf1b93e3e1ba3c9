"""Block-variance theory: the exact expected change of a step, the published bounds, and what they take as input."""
