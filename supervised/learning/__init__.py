"""The meta-update, its baselines and the trainers."""
