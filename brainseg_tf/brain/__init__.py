"""Finding the brain in a scan."""
