"""Models of this project and others, scored on the same tasks in one run."""
