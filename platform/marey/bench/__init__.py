"""Side-by-side measurements: everything that is compared runs in one process, in turns, on the same data."""
