"""Lesson code of notebook 12: three heads on a pretrained body, finetuned in several ways."""
