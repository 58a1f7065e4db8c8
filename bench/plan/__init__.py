"""What a suite asks for: its cells and what of them is done."""
