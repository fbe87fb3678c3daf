"""Puts this folder on the import path, for the helper modules that several test folders share (peers.py, ...)."""
