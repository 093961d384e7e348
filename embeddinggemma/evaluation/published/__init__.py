"""What was published: tables of scores, and ours beside them."""
