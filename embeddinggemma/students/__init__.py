"""Small models that are cut out of a large one."""
