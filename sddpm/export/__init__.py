"""Networks in the files of other projects: the spiking parts as NIR graphs, and a manifest."""
