"""``python -m maml_rl`` is ``maml-rl``."""

import os
import sys

if sys.path[0] == os.getcwd():
    # ``python -m`` puts the present folder first, where any file could stand in for an installed module.
    sys.path.append(sys.path.pop(0))

from maml_rl.cli.app import main

sys.exit(main())
