"""report.html: what training and evaluation measured, in one file for the eye, and its main plots as PNG."""
