"""From trained ANN denoisers to spiking ones, and what that costs in accuracy."""
