"""Prediction: from scan files to masks, reports, tables and pages."""
