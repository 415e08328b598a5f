"""Checkpoints of other formats: a GGUF file as a folder in Hugging Face format."""
