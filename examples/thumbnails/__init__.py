"""Thumbnails of a folder of photographs, finished whatever happens to the server meanwhile."""
