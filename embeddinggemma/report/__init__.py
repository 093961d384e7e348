"""The HTML report of a run, section by section, and tables for the terminal."""
