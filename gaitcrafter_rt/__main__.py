"""``python -m gaitcrafter_rt`` is the command ``gaitcrafter-rt``."""

import sys

from .cli.main import main

sys.exit(main())
