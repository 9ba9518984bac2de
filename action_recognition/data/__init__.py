"""From a folder to a batch."""
