"""Puts this folder on the import path, for the helper modules that several test folders share (peers.py, ...)."""

import os

# Programs that tests start must import the installed package too, not the sources in the current folder.
os.environ["PYTHONSAFEPATH"] = "1"
