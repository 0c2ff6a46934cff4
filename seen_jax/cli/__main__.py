"""`python -m seen_jax.cli`, the same as `seen-jax`."""

import sys

from seen_jax.cli import main

sys.exit(main())
