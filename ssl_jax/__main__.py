"""`python -m ssl_jax`, the same as `ssl-jax`."""

import sys

from ssl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
