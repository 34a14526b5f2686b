"""The command line of ``supervised``."""
