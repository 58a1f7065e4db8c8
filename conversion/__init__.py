"""Conversion of trained ANN denoisers to spiking ones, and measurement of the error that it
adds."""
