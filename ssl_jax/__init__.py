"""Self-supervised image representation learning in JAX."""
