"""Searches with Ray Tune whose trials are run directories, whatever is trained in them.

::

    config.json          the search: enough to go on with it
    trial-00000/         a run, as `train` writes it, of the first configuration
    results.csv          a row per trial, best first
    search.png|svg|pdf   parallel coordinates and learning curves

A search that is gone on with draws the same configurations again, by the same seed. Trials that have rows report
them at once, so that scheduler and search algorithm see what they saw, and then train on from their checkpoints. No
pickle of Ray Tune's is read.
"""
