"""Deployment of models with TensorFlow Serving, and prediction with served models."""
