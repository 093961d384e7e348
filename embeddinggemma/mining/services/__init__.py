"""Models behind an API: asked within limits, and nothing paid for twice."""
