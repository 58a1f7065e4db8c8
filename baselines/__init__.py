"""The systems that SDDPM is compared with: one module or folder for each."""
