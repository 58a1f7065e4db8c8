"""The variational autoencoders: FSVAE, its ANN twin, and the convolutions they share."""
