"""`python -m seen_jax` is `seen-jax`."""

from seen_jax.cli import console

if __name__ == "__main__":
    console()
