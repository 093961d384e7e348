"""What people read in a terminal: text made harmless, tables of any width."""
