"""Evaluation of trained models: settings, metrics, metric groups, estimators."""
