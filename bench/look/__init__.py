"""Inside a network: firing rates, rasters and denoising chains as plots."""
