"""Causal language models: loading, checking, saving, and small ones from scratch."""
