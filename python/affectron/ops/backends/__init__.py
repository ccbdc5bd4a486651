"""What computes the ops: each module holds one function for each op, of the op's name (see ``_backends``)."""
