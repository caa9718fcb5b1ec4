"""From a function to a compiled program: traced, rewritten, compiled."""
