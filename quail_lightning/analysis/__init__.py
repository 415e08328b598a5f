"""What measurements mean to a reader: tables, figures, files."""
