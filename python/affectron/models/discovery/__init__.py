"""The MLP sites of a model, found by what its blocks compute."""
