"""A run folder that satisfies every contract, and the program that made it."""
