"""What this library is compared with: the same work in Avalanche, in JAX and by hand in PyTorch, each in its own environment."""
