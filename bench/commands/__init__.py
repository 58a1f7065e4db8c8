"""The commands of ``sddpm-bench``, one file each, and the options and printing that they share."""
