"""The GANs: SGAN, SWGAN, SGAD and Hybrid GAN, and the parts they share."""
