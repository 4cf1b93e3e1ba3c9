"""One run, from a configuration to a record: fine-tuning, its settings, its checkpoints."""
