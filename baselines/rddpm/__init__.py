"""Riemannian DDPM with a perceptron, and with a spiking one."""
