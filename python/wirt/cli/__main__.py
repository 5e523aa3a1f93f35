"""`python -m wirt.cli`: the command line where no `wirt` is installed."""

import sys

from wirt.cli import main

sys.exit(main())
