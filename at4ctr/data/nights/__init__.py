"""The log of a night: the state of earlier days and the rows of new days."""
