"""The agent's side of a run: the worker processes, the task's files, and one attempt from its start to its outcome."""
