"""One file a verb: what it does, in reading order."""
