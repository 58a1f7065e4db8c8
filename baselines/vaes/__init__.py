"""The variational autoencoders: FSVAE, ESVAE, their ANN twin, and the parts they share."""
