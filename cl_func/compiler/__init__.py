"""From a function to a compiled program: traced, rewritten, compiled. All private torch API is here."""
