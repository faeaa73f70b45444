"""What a run needs, brought here: binaries, models, datasets."""
