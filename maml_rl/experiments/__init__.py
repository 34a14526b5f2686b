"""The paper's experiments: presets, methods, training, evaluation, runs on disk."""
