"""Outlining, removing, measuring: from a reconstruction to a mask (section 5.3)."""
