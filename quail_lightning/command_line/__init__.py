"""From arguments to a run, and from its end to an exit status."""
