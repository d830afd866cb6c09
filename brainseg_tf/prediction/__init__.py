"""Segmentation of scan files: masks, reports, tables and HTML pages."""
