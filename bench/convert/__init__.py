"""Conversion of a trained ANN into a spiking network."""
