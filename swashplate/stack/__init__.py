"""The whole stack on one machine: what it consists of, its processes, and how a running one is changed."""
