"""The folder a command was given in, as processes that Ray started elsewhere know it."""

from __future__ import annotations

import os

USER_FOLDER = "MAML_RL_USER_FOLDER"
"""Name of the environment variable."""


def work_in_users_folder() -> None:
    """Take relative paths as the user's command does, where its folder is there, too."""
    folder = os.environ.get(USER_FOLDER, "")
    if os.path.isdir(folder):
        os.chdir(folder)
