"""From video files to the folders that training reads. Runs without torch."""
