"""Lesson code of notebook 11: between kt_core and the `transformers` library."""
