"""Lesson code of notebook 12: a GPT as a classifier, finetuned in several ways."""
