"""HTTP: each operation from its arguments to its answer."""
