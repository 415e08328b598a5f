"""One run: its folder, its figures, its processes, and the training state it is resumed from."""
