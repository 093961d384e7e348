"""What recipes on the user's own data share.

Scores before and after, the choice of what is handed over, and the forecast of
time and memory that comes before all of it.
"""
