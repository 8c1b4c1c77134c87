"""``python -m gradnoise.cli``."""

import sys

from gradnoise.cli._main import main

sys.exit(main())
