"""``python -m maml_rl`` is ``maml-rl``."""

import sys

from maml_rl.cli.app import main

sys.exit(main())
