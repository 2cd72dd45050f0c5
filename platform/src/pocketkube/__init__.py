"""Kubernetes on one machine, with real processes in place of containers."""
