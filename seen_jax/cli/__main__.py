import sys

from seen_jax.cli import main

sys.exit(main())
