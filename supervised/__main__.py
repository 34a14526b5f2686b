"""``python -m supervised`` is ``supervised``."""

import sys

from supervised.cli import main

sys.exit(main())
