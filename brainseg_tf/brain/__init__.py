"""Brain masks and the alignment of the head."""
