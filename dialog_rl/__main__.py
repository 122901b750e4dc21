"""``python -m dialog_rl`` is the ``dialog-rl`` command."""

import sys

from dialog_rl.cli import main

sys.exit(main())
