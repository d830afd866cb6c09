"""Evaluation: methods compared with ground truth."""
