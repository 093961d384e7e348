"""The page of a run, section by section, and the tables of the terminal."""
