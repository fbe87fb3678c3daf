"""The command ``gaitcrafter-rt``. A command's module, and numpy or torch with it, is imported when the command runs."""
