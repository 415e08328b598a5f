"""What a model says and how likely it finds a text, in batches that fit into memory."""
