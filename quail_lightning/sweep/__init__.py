"""Search the options of `quail fit`: one run a trial, chosen by validation figures (docs/sweep.md)."""
