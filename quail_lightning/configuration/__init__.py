"""Config files: found by name, read within bounds, naming only classes that may be imported."""
