"""Anything else."""
