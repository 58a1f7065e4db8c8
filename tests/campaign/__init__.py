"""Faults on purpose: damaged and hostile files, and commands that are killed while they write."""
