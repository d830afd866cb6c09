"""Trained models, ``NAME/VERSION/`` as TensorFlow Serving reads them, each with a model card."""
