"""Lesson code of notebook 9: encoder-decoders, toy tasks with known alignments, decoding."""
