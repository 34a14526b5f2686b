"""The mathematics, as pure functions: no Ray, no Gymnasium, no files."""
