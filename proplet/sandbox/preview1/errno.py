"""The error numbers of WASI preview 1 that our functions return."""

SUCCESS = 0
BADF = 8
INVAL = 28
NAMETOOLONG = 37
NOMEM = 48
NOTSUP = 58
