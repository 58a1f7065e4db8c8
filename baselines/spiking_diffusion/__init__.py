"""Spiking-Diffusion: a spiking VQ-VAE and an absorbing diffusion of its codes."""
