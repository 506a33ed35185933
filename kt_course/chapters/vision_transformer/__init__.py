"""Lesson code of notebook 13: a Vision Transformer on handwritten digits."""
