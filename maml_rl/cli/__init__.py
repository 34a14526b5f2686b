"""The command line ``maml-rl``, thin: a module per group of commands, nothing imports it."""
