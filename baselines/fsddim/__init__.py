"""FSDDIM: the fully spiking denoising diffusion implicit model."""
