"""Labelled sentences: from rows of many formats to batches of tokens."""

from affectron.corpus.corpus import DEFAULT_TASK, Corpus, Message, OnBadLine, Sentence

__all__ = ["DEFAULT_TASK", "Corpus", "Message", "OnBadLine", "Sentence"]
