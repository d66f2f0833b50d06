"""The queries of the ready questions: the name of a file is the name of its question."""
