"""How long things take, each beside its peers in the same run."""
