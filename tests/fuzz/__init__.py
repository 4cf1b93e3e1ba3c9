"""A fuzzer of every file and text that the command line reads: `python -m tests.fuzz --seconds 60`.

A valid input is changed in one to three places and loaded as the command line loads it, in a forked process with limits. Right
is a refusal in one sentence, or the very content that was written; anything else is a finding, kept in `runs/fuzz/`.
"""
