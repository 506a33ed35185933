"""Lesson code of notebook 14: confidence, abstention, tracing a fact through a model, capacity."""
