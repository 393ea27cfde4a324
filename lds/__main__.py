"""`python -m lds`."""

import sys

from lds.cli import main

sys.exit(main())
