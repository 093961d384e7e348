"""From vectors to scores, as mteb makes them, and to their intervals."""
