"""Proofs of Jobpipe's promises: faults made on purpose, and what clients remember compared with what the server has."""
