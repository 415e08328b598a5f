"""Finished runs, beside one another or as one page for a reader who did not run them."""
