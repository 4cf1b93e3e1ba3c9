"""Many runs and what they say: plans, cells, records, statistics, and a short file for each question."""
