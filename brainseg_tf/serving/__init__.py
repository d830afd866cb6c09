"""Deploying a model behind TensorFlow Serving, and predicting through it."""
