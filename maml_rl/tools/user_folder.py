"""The folder a command was given in, as processes that Ray started elsewhere know it."""

from __future__ import annotations

import os
import sys
import threading

USER_FOLDER = "MAML_RL_USER_FOLDER"
"""Name of the environment variable."""

_started_by_ray = threading.Event()
"""Set in Ray's processes, not in the user's."""


def work_in_users_folder() -> None:
    """Take relative paths as the user's command does, where its folder is there, too.

    The user's own process stays where it is: it may have gone elsewhere since Ray was started.
    """
    folder = os.environ.get(USER_FOLDER, "")
    if _started_by_ray.is_set() and os.path.isdir(folder):
        os.chdir(folder)


def look_in_users_folder() -> None:
    """Find modules of the user's folder, after all others: no file there stands in for an installed module.

    Ray calls it first in each of its processes, before classes and networks of the user's arrive there.
    """
    _started_by_ray.set()
    folder = os.environ.get(USER_FOLDER, "")
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.append(folder)
