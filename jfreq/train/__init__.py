"""One training run: planned, started, stepped, saved, resumed."""
