"""Data sets, pictures and sample grids."""
