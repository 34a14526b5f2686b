"""``python -m supervised`` is ``supervised``."""

import os
import sys

if sys.path[0] == os.getcwd():
    # ``python -m`` puts the present folder first, where any file could stand in for an installed module.
    sys.path.append(sys.path.pop(0))

from supervised.cli.app import main

sys.exit(main())
