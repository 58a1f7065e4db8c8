"""Regression checks: two metric tables compared cell by cell."""
