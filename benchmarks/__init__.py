"""Measured comparisons, as ratios within one run: `python -m benchmarks.NAME [--json]`."""

import zolab  # noqa: F401  (quiets what transformers imports, before it is imported)
