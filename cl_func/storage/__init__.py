"""Files, checkpoints, and what a run is recognised by."""
