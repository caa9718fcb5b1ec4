"""Long searches for faults: random configurations, and runs that are killed again and again."""
