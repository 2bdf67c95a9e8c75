"""What a run tells: metrics on disk, progress on the terminal."""
