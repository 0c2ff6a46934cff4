from seen_jax.cli import console

console()
