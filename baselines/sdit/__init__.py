"""SDiT: a spiking diffusion transformer of RWKV blocks."""
