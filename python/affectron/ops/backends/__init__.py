"""Modules that compute the ops: each holds one function for each op, of the op's name (see ``_backends``)."""
