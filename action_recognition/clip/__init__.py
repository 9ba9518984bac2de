"""The ground floor: what training and deployment share. NumPy and Pillow only; no torch."""
