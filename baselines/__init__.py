"""The systems SDDPM is compared with: one file each."""
