"""One file a release: its names, its axes, and where its geometry is read from."""
