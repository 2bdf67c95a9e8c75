"""Released checkpoints of other projects as encoders of jfreq: names, axes, geometry."""
