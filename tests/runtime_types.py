"""What checks annotations at run time in tests: conftest.py names it."""

import beartype

# An int is a float, as type checkers have it.
checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
