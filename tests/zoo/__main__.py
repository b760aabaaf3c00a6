"""`python -m tests.zoo` is `python -m tests.zoo.run`."""

import sys

from tests.zoo.run import main

sys.exit(main())
