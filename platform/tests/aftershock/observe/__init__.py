"""Observers, against real servers and processes."""
