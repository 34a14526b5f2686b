"""The paper's experiments: presets, training, evaluation, search."""
