"""Training: from a cohort to a SavedModel with its model card."""
