"""Internal modules that every layer uses; none is public."""
