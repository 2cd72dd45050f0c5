"""Root causes from observations alone: what was broken is never an input."""
